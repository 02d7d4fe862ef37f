package transparency

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds each system call. What takes longer is noted as a timeout, which no case wants.
const patience = 8 * time.Second

// end is one end of a conversation. Its methods work on one socket, note what happens, and give up the conversation
// where it cannot go on.
type end struct {
	order
	meet   func() // waits for the other end
	notes  []string
	listen int
	open   []int // what is closed at the end
	// background are the goroutines of meanwhile.
	background sync.WaitGroup
	started    bool
}

type gaveUp struct{}

// play gives what this end noted. The server listens before the client begins.
func (e *end) play() (notes []string) {
	e.listen = -1
	defer func() {
		e.join()
		for _, fd := range e.open {
			_ = unix.Close(fd)
		}
		if r := recover(); r != nil {
			if _, ok := r.(gaveUp); !ok {
				e.note("%v", r)
			}
		}
		notes = e.notes
	}()
	c := findCase(e.Case)
	if e.Client {
		e.meet()
		c.client(e)
		return
	}
	if c.server != nil {
		e.listenOn(c.inline)
	}
	e.meet()
	if c.server != nil {
		c.server(e)
	}
	return
}

// meanwhile holds a conversation of its own with this end's listener, to the end of the play. What it notes is dropped.
func (e *end) meanwhile(talk func(*end)) {
	e.started = true
	p := &end{order: e.order, listen: e.listen}
	e.background.Go(func() { p.part(talk) })
}

// join ends what meanwhile started. A call that waited on a descriptor while it is closed would go on with the socket that
// gets the number next: another conversation's.
func (e *end) join() {
	if !e.started {
		return
	}
	for _, fd := range e.open {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	}
	e.background.Wait()
}

// note adds a line, unless it repeats the one before it.
func (e *end) note(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); len(e.notes) == 0 || e.notes[len(e.notes)-1] != s {
		e.notes = append(e.notes, s)
	}
}

// fails notes an error and gives up.
func (e *end) fails(what string, err error) {
	e.note("%s: %s", what, errnoName(err))
	panic(gaveUp{})
}

// must gives up if a call that has nothing to do with the path fails.
func (e *end) must(what string, err error) {
	if err != nil {
		e.fails(what, err)
	}
}

func errnoName(err error) string {
	var no unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, io.EOF):
		return "EOF"
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINPROGRESS):
		return "timeout"
	case errors.As(err, &no):
		return unix.ErrnoName(no)
	}
	return err.Error()
}

// again repeats calls that a signal interrupted: the Go runtime sends some.
func again[T any](f func() (T, error)) (T, error) {
	for {
		v, err := f()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}

// socket makes a TCP socket whose calls end after patience.
func (e *end) socket(family, protocol int) int {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	e.must("socket", err)
	e.open = append(e.open, fd)
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	e.must("SO_RCVTIMEO", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	e.must("SO_SNDTIMEO", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	return fd
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func (e *end) listenOn(inline bool) {
	any := netip.IPv6Unspecified()
	if e.To.Addr().Is4() {
		any = netip.IPv4Unspecified()
	}
	e.listen = e.socket(family(any), 0)
	e.must("SO_REUSEADDR", unix.SetsockoptInt(e.listen, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	if inline {
		e.must("SO_OOBINLINE", unix.SetsockoptInt(e.listen, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1))
	}
	e.must("bind", unix.Bind(e.listen, sockaddr(netip.AddrPortFrom(any, e.Server))))
	e.must("listen", unix.Listen(e.listen, 4096))
}

// accept waits for a connection.
func (e *end) accept() int {
	fd, err := again(func() (int, error) {
		fd, _, err := unix.Accept4(e.listen, unix.SOCK_CLOEXEC)
		return fd, err
	})
	if err != nil {
		e.fails("accept", err)
	}
	e.open = append(e.open, fd)
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	e.must("SO_RCVTIMEO", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	e.must("SO_SNDTIMEO", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	return fd
}

// connect makes a connection to the server.
func (e *end) connect() int {
	fd := e.socket(family(e.To.Addr()), 0)
	e.connectOn(fd)
	return fd
}

func (e *end) connectOn(fd int) {
	if err := connectTo(fd, e.To); err != nil {
		e.fails("connect", err)
	}
}

func connectTo(fd int, to netip.AddrPort) error {
	_, err := again(func() (int, error) {
		err := unix.Connect(fd, sockaddr(to))
		if errors.Is(err, unix.EALREADY) || errors.Is(err, unix.EISCONN) { // a signal came meanwhile
			return 0, unix.EINTR
		}
		return 0, err
	})
	return err
}

// bytes gives the pseudo-random bytes that an end sends.
func (e *end) bytes() *rand.ChaCha8 {
	var seed [32]byte
	copy(seed[:], e.Case)
	if e.Client {
		seed[31] = 1
	}
	return rand.NewChaCha8(seed)
}

const piece = 64 << 10

// write sends n bytes in pieces, and gives up if it cannot.
func (e *end) write(fd, n int) {
	if err := e.tryWrite(fd, n, piece); err != nil {
		e.fails("write", err)
	}
}

// tryWrite sends n bytes by writes of at most size bytes each.
func (e *end) tryWrite(fd, n, size int) error {
	from, buf := e.bytes(), make([]byte, size)
	for n > 0 {
		b := buf[:min(n, size)]
		_, _ = from.Read(b)
		n -= len(b)
		if err := writeAll(fd, b); err != nil {
			return err
		}
	}
	return nil
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := again(func() (int, error) { return unix.SendmsgN(fd, b, nil, nil, unix.MSG_NOSIGNAL) })
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// reader reads a socket as an io.Reader.
type reader struct {
	fd    int
	size  int           // of each read; 0 is piece
	pause time.Duration // before each read
}

func (r reader) Read(b []byte) (int, error) {
	if r.size > 0 {
		b = b[:min(len(b), r.size)]
	}
	time.Sleep(r.pause)
	n, err := again(func() (int, error) { return unix.Read(r.fd, b) })
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

// read wants n bytes.
func (e *end) read(fd, n int) {
	hash, got, err := digest(io.LimitReader(reader{fd: fd}, int64(n)))
	if err != nil && !errors.Is(err, io.EOF) || got < n {
		e.note("read %d of %d bytes", got, n)
		if err == nil {
			err = io.EOF
		}
		e.fails("read", err)
	}
	e.note("read %d bytes %s", got, hash)
}

// readAll reads to the end, and notes what came and how it ended.
func (e *end) readAll(fd int) { e.readAllFrom(reader{fd: fd}) }

func (e *end) readAllFrom(r reader) {
	hash, got, err := digest(r)
	if err == nil {
		err = io.EOF
	}
	e.note("read %d bytes %s, then %s", got, hash, errnoName(err))
}

// readEnd reads to the end, and notes only how it ended: how much came is a matter of chance.
func (e *end) readEnd(fd int) {
	_, _, err := digest(reader{fd: fd})
	if err == nil {
		err = io.EOF
	}
	e.note("the end is %s", errnoName(err))
}

func digest(r io.Reader) (string, int, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(h, r, make([]byte, piece))
	return hex.EncodeToString(h.Sum(nil)[:6]), int(n), err
}

// writeUntilError writes single bytes until the other end's reset or close is noticed.
func (e *end) writeUntilError(fd int) {
	for began := time.Now(); time.Since(began) < patience; time.Sleep(5 * time.Millisecond) {
		if err := writeAll(fd, []byte{0}); err != nil {
			e.writeEnds(err)
			return
		}
	}
	e.note("write until timeout")
}

// writeEnds notes how writing ended. Which of the two errors a reset gives depends on what came before it.
func (e *end) writeEnds(err error) {
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		e.note("write until EPIPE or ECONNRESET")
	} else {
		e.note("write until %s", errnoName(err))
	}
}

// fill writes until nothing moves any more: all buffers on the way are full.
func (e *end) fill(fd int) {
	limit := unix.NsecToTimeval((300 * time.Millisecond).Nanoseconds())
	e.must("SO_SNDTIMEO", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	if err := e.tryWrite(fd, 256<<20, piece); !errors.Is(err, unix.EAGAIN) {
		e.fails("write", err)
	}
}

func (e *end) shutdown(fd, how int) {
	if err := unix.Shutdown(fd, how); err != nil {
		e.fails("shutdown", err)
	}
}

func (e *end) closeWrite(fd int) { e.shutdown(fd, unix.SHUT_WR) }

func (e *end) close(fd int) {
	for i, o := range e.open {
		if o == fd {
			e.open = append(e.open[:i], e.open[i+1:]...)
			break
		}
	}
	_ = unix.Close(fd)
}

// reset ends a connection by RST.
func (e *end) reset(fd int) {
	e.must("SO_LINGER", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	e.close(fd)
}

// resetTime is how long the kernel may take for a reset. It sets the error first, then the state, then the shutdown, and a
// poll on another processor sees what is there so far.
const resetTime = 50 * time.Millisecond

// await waits for events on a socket and notes the interesting ones.
func (e *end) await(fd int, events int16) int16 {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := again(func() (int, error) { return unix.Poll(p, int(patience.Milliseconds())) })
	e.must("poll", err)
	if n == 0 {
		e.note("poll: timeout")
	}
	if p[0].Revents&unix.POLLERR != 0 {
		time.Sleep(resetTime)
		_, err = again(func() (int, error) { return unix.Poll(p, 0) })
		e.must("poll", err)
	}
	return p[0].Revents
}

// eventNames gives the names of poll events.
func eventNames(events int16) string {
	out := ""
	for _, v := range []struct {
		bit  int16
		name string
	}{{unix.POLLIN, "IN"}, {unix.POLLOUT, "OUT"}, {unix.POLLRDHUP, "RDHUP"}, {unix.POLLHUP, "HUP"}, {unix.POLLERR, "ERR"}, {unix.POLLPRI, "PRI"}} {
		if events&v.bit != 0 {
			out += " " + v.name
		}
	}
	return out
}

// who names an address.
func (e *end) who(sa unix.Sockaddr) (string, uint16) {
	var a netip.AddrPort
	switch s := sa.(type) {
	case *unix.SockaddrInet4:
		a = netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		a = netip.AddrPortFrom(netip.AddrFrom16(s.Addr).Unmap(), uint16(s.Port))
	default:
		return "nobody", 0
	}
	if e.Client && a == e.To {
		return "the target", a.Port()
	}
	if name := e.Names[a.Addr()]; name != "" {
		return name, a.Port()
	}
	if a.Addr().IsLoopback() {
		return "loopback", a.Port()
	}
	return "somebody else", a.Port()
}

// parallel holds n conversations, each with an end of its own, some at once, and notes how many went how.
func (e *end) parallel(n, atOnce int, talk func(*end)) {
	room, results := make(chan struct{}, atOnce), make(chan string, n)
	for range n {
		go func() {
			room <- struct{}{}
			defer func() { <-room }()
			part := &end{order: e.order, listen: e.listen}
			results <- part.part(talk)
		}()
	}
	count := map[string]int{}
	for range n {
		count[<-results]++
	}
	for _, r := range slices.Sorted(maps.Keys(count)) {
		e.note("%d times: %s", count[r], r)
	}
}

// part holds a conversation and gives its notes in one line.
func (e *end) part(talk func(*end)) (notes string) {
	defer func() {
		for _, fd := range e.open {
			_ = unix.Close(fd)
		}
		if r := recover(); r != nil {
			if _, ok := r.(gaveUp); !ok {
				e.note("%v", r)
			}
		}
		notes = strings.Join(e.notes, "; ")
	}()
	talk(e)
	return
}
