package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// protocol is the ALPN of sessions.
const protocol = "weft-tunnel/1"

// secured is TLS over a TCP connection. Records are joined into few system calls: those that are written wait for Flush,
// those that come are read as many at once as fit.
type secured struct {
	*tls.Conn
	records *records
}

// Read waits until there is something to read. It returns as much as has come and fits.
func (c *secured) Read(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = c.Conn.Read(b[n:])
		n += m
		c.records.ready = true
	}
	c.records.ready = false
	if errors.Is(err, errNotReady) {
		err = nil
	}
	return n, err
}

// Flush sends what was written.
func (c *secured) Flush() error { return c.records.flush() }

// RoundTrip is what TCP measured.
func (c *secured) RoundTrip() (least time.Duration) {
	_ = c.records.raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			least = time.Duration(info.Min_rtt) * time.Microsecond
		}
	})
	return least
}

// Close ends the connection at once. An alert would have to wait for the network.
func (c *secured) Close() error { return c.records.Close() }

// turns bounds how many handshakes are computed at once. What waits for the other end has no turn. Without a bound a peer that
// opens many sessions has a goroutine ready for each, and the streams of all pods stand in line behind them.
type turns chan struct{}

func newTurns() turns { return make(turns, max(1, runtime.GOMAXPROCS(0)/2)) }

func (t turns) take() { t <- struct{}{} }
func (t turns) give() { <-t }

// secure makes the TLS handshake, as the client or the server of the connection.
func secure(ctx context.Context, c net.Conn, cfg *tls.Config, client bool, handshakes turns) (*secured, error) {
	r := &records{Conn: c, turns: handshakes}
	if err := r.init(); err != nil {
		_ = c.Close()
		return nil, err
	}
	s := &secured{records: r}
	if client {
		s.Conn = tls.Client(r, cfg)
	} else {
		s.Conn = tls.Server(r, cfg)
	}
	r.turns.take()
	err := s.HandshakeContext(ctx)
	r.turns.give()
	if ferr := r.flush(); err == nil { // an alert that says why is sent too
		err = ferr
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	r.established.Store(true)
	return s, nil
}

// records is what TLS reads from and writes to.
type records struct {
	net.Conn
	raw         syscall.RawConn
	from        reader
	in          *bufio.Reader
	established atomic.Bool
	turns       turns // of the handshake
	ready       bool  // Read must not wait. Of the goroutine that reads.
	began       int   // bytes that the handshake has read

	mu  sync.Mutex
	out []byte
}

const (
	// maxRecords bounds the buffer that is kept between two flushes.
	maxRecords = 512 << 10
	// maxUnsent is more than a session puts between two flushes.
	maxUnsent = 8 * outLimit
	// maxHandshakeBytes is more than the peer sends in a handshake. TLS parses all certificates of up to 256 KiB before anybody
	// can count them.
	maxHandshakeBytes = 32 << 10
)

func (r *records) init() (err error) {
	c, ok := r.Conn.(syscall.Conn)
	if !ok {
		return fmt.Errorf("%T has no descriptor", r.Conn)
	}
	r.raw, err = c.SyscallConn()
	r.from.raw = r.raw
	r.in = bufio.NewReaderSize(&r.from, 4*(16<<10+256))
	return err
}

// reader reads from a connection.
type reader struct {
	raw   syscall.RawConn
	full  bool // the last read left nothing of its buffer, so there may be more
	hurry bool // a read must not wait
}

func (r *reader) Read(b []byte) (n int, err error) {
	rerr := r.raw.Read(func(fd uintptr) bool {
		n, err = read(int(fd), b)
		return r.hurry || !errors.Is(err, unix.EAGAIN)
	})
	r.full = n == len(b)
	switch {
	case rerr != nil:
		return 0, rerr
	case errors.Is(err, unix.EAGAIN):
		err = errNotReady
	case err == nil && n == 0:
		err = io.EOF
	}
	return n, err
}

// Read reads what the peer sent. In a handshake the peer waits for what was written before.
func (r *records) Read(b []byte) (int, error) {
	if !r.established.Load() {
		if err := r.flush(); err != nil {
			return 0, err
		}
		return r.readHandshake(b)
	}
	if r.ready && r.in.Buffered() == 0 && !r.from.full {
		return 0, errNotReady
	}
	r.from.hurry = r.ready
	return r.in.Read(b)
}

// readHandshake waits for the peer, and lets others compute meanwhile.
func (r *records) readHandshake(b []byte) (int, error) {
	if r.began > maxHandshakeBytes {
		return 0, fmt.Errorf("%w: its handshake takes more than %d bytes", errProtocol, maxHandshakeBytes)
	}
	r.turns.give()
	defer r.turns.take()
	n, err := r.in.Read(b)
	r.began += n
	return n, err
}

// errNotReady says that a read would have to wait. TLS goes on after it, as after a deadline.
var errNotReady error = notReady{}

type notReady struct{}

func (notReady) Error() string   { return "nothing has come" }
func (notReady) Timeout() bool   { return true }
func (notReady) Temporary() bool { return true }

// Write keeps b for flush. TLS writes by itself when the peer wants other keys, which nothing flushes.
func (r *records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.out) > maxUnsent {
		return 0, fmt.Errorf("%w: it makes this end write and does not read", errProtocol)
	}
	r.out = append(r.out, b...)
	return len(b), nil
}

func (r *records) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.out) == 0 {
		return nil
	}
	err := writeAll(r.raw, r.out)
	r.out = r.out[:0]
	if cap(r.out) > maxRecords {
		r.out = nil
	}
	return err
}
