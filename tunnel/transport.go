package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
)

// protocol is the ALPN of sessions.
const protocol = "weft-tunnel/1"

// secured is TLS over a TCP connection. Records are joined into few system calls: those that are written wait for Flush,
// those that come are read as many at once as fit.
type secured struct {
	*tls.Conn
	records *records
}

// Flush sends what was written.
func (c *secured) Flush() error { return c.records.flush() }

// Close ends the connection at once. An alert would have to wait for the network.
func (c *secured) Close() error { return c.records.Close() }

// secure makes the TLS handshake, as the client or the server of the connection.
func secure(ctx context.Context, c net.Conn, cfg *tls.Config, client bool) (*secured, error) {
	r := &records{Conn: c, in: bufio.NewReaderSize(c, 4*(16<<10+256))}
	s := &secured{records: r}
	if client {
		s.Conn = tls.Client(r, cfg)
	} else {
		s.Conn = tls.Server(r, cfg)
	}
	err := s.HandshakeContext(ctx)
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
	in          *bufio.Reader
	established atomic.Bool

	mu  sync.Mutex
	out []byte
}

// maxRecords bounds the buffer that is kept between two flushes.
const maxRecords = 512 << 10

// Read reads what the peer sent. In a handshake the peer waits for what was written before.
func (r *records) Read(b []byte) (int, error) {
	if !r.established.Load() {
		if err := r.flush(); err != nil {
			return 0, err
		}
	}
	return r.in.Read(b)
}

// Write keeps b for flush.
func (r *records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out = append(r.out, b...)
	return len(b), nil
}

func (r *records) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.out) == 0 {
		return nil
	}
	_, err := r.Conn.Write(r.out)
	r.out = r.out[:0]
	if cap(r.out) > maxRecords {
		r.out = nil
	}
	return err
}
