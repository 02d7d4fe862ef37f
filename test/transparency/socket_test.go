package transparency

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// again repeats calls that a signal interrupted: the Go runtime sends some.
func again[T any](f func() (T, error)) (T, error) {
	for {
		v, err := f()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}

// socket makes a TCP socket for a connection. Its calls end after patience.
func (e *end) socket(family, protocol int) *conn {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	e.must("socket", err)
	return e.hand(fd, int(e.made.Add(1))-1)
}

// hand gives a connection's socket to this end, which closes it at last.
func (e *end) hand(fd, number int) *conn {
	c := newConn(e.order, fd, number)
	e.open = append(e.open, c)
	e.must("SO_RCVTIMEO", timeLimit(fd, unix.SO_RCVTIMEO, patience))
	e.must("SO_SNDTIMEO", timeLimit(fd, unix.SO_SNDTIMEO, patience))
	return c
}

func timeLimit(fd, option int, d time.Duration) error {
	limit := unix.NsecToTimeval(d.Nanoseconds())
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit)
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
	any := e.unspecified()
	fd, err := unix.Socket(family(any), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	e.must("socket", err)
	e.listen = fd
	e.must("SO_RCVTIMEO", timeLimit(fd, unix.SO_RCVTIMEO, patience))
	e.must("SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	if inline {
		e.must("SO_OOBINLINE", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1))
	}
	e.must("bind", unix.Bind(fd, sockaddr(netip.AddrPortFrom(any, e.Server))))
	e.must("listen", unix.Listen(fd, 4096))
}

// accept waits for the next connection, in the order in which the client makes them.
func (e *end) accept() *conn { return e.acceptNumber(int(e.made.Add(1)) - 1) }

// acceptAny waits for a connection. The first bytes that are read say which it is.
func (e *end) acceptAny() *conn { return e.acceptNumber(unnamed) }

func (e *end) acceptNumber(number int) *conn {
	fd, err := again(func() (int, error) {
		fd, _, err := unix.Accept4(e.listen, unix.SOCK_CLOEXEC)
		return fd, err
	})
	e.must("accept", err)
	c := e.hand(fd, number)
	if len(e.Prelude) > 0 {
		e.mustGet(c, e.Prelude)
		e.must("answer the prelude", writeAll(c.fd, preludeAnswer))
	}
	return c
}

// mustGet reads bytes that are no part of a stream.
func (e *end) mustGet(c *conn, want []byte) {
	b := make([]byte, len(want))
	n, err := io.ReadFull(reader{c: c, raw: true}, b)
	if !bytes.Equal(b[:n], want) {
		e.stop("%d of %d bytes before the stream, as sent: %t, then %s", n, len(b), bytes.HasPrefix(want, b[:n]), errnoName(err))
	}
}

// connect makes a connection to the server.
func (e *end) connect() *conn {
	c := e.socket(family(e.To.Addr()), 0)
	e.connectOn(c)
	return c
}

func (e *end) connectOn(c *conn) {
	e.must("connect", connectTo(c.fd, e.To))
	e.prelude(c)
}

// prelude sends what the path asks for before anything else, and waits for the server's answer, as clients of such a protocol do.
func (e *end) prelude(c *conn) {
	if len(e.Prelude) > 0 {
		e.must("write the prelude", writeAll(c.fd, e.Prelude))
		e.mustGet(c, preludeAnswer)
	}
}

// preludeAnswer is what a server answers to a prelude.
var preludeAnswer = []byte("go on")

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

// knock notes the first error of a client that connects, writes n bytes and reads, where nobody listens. Which call gets a
// reset that comes after connect() depends on time alone.
func (e *end) knock(n int) {
	c := e.socket(family(e.To.Addr()), 0)
	err := connectTo(c.fd, e.To)
	if err == nil {
		err = writeAll(c.fd, e.Prelude)
	}
	if err == nil {
		_, err = c.write(n, piece)
	}
	e.refused(c, err)
}

// refused notes the first error of a connection that nobody takes. Without one yet, reading gives it.
func (e *end) refused(c *conn, err error) {
	if err == nil {
		err = c.drain(reader{c: c})
	}
	e.note("%d bytes%s, then %s", c.at, c.verdict(), errnoName(err))
}

const piece = 64 << 10

// write sends n bytes in pieces, and gives up if it cannot.
func (e *end) write(c *conn, n int) {
	_, err := c.write(n, piece)
	e.must("write", err)
}

// write sends n bytes by writes of at most size bytes each. It gives how many the kernel took.
func (c *conn) write(n, size int) (sent int, err error) {
	buf := make([]byte, min(n, size))
	for n > 0 {
		b := buf[:min(n, size)]
		c.fill(b)
		n -= len(b)
		left, err := writeSome(c.fd, b)
		sent += len(b) - left
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

func writeAll(fd int, b []byte) error {
	_, err := writeSome(fd, b)
	return err
}

// writeSome writes until an error, and gives how many bytes are left.
func writeSome(fd int, b []byte) (left int, err error) {
	for len(b) > 0 {
		n, err := again(func() (int, error) { return unix.SendmsgN(fd, b, nil, nil, unix.MSG_NOSIGNAL) })
		if err != nil {
			return len(b), err
		}
		b = b[n:]
	}
	return 0, nil
}

// reader reads a connection as an io.Reader, and compares what comes with what was sent.
type reader struct {
	c     *conn
	size  int           // of each read; 0 is as much as is asked for
	pause time.Duration // before each read
	raw   bool          // nothing is compared
}

func (r reader) Read(b []byte) (int, error) {
	if r.size > 0 {
		b = b[:min(len(b), r.size)]
	}
	time.Sleep(r.pause)
	n, err := again(func() (int, error) { return unix.Read(r.c.fd, b) })
	if n == 0 && err == nil {
		err = io.EOF
	}
	n = max(n, 0)
	if !r.raw {
		r.c.take(b[:n])
	}
	return n, err
}

// drain reads to the end, which it gives.
func (c *conn) drain(r reader) error {
	b := make([]byte, piece)
	for {
		if _, err := r.Read(b); err != nil {
			return err
		}
	}
}

// read wants n bytes.
func (e *end) read(c *conn, n int) {
	e.want(c, n)
	e.note("read %d bytes", n)
}

// want reads n bytes, and notes nothing if they are as sent.
func (e *end) want(c *conn, n int) {
	before := c.at
	buf := make([]byte, min(n, piece))
	for got := 0; got < n; {
		m, err := (reader{c: c}).Read(buf[:min(n-got, piece)])
		got += m
		if err != nil {
			e.stop("read %d of %d bytes%s, then %s", got, n, c.verdict(), errnoName(err))
		}
	}
	if v := c.verdict(); v != "" {
		e.stop("read %d bytes after %d%s", n, before, v)
	}
}

// readAll reads to the end, and notes what came and how it ended.
func (e *end) readAll(c *conn) { e.readAllFrom(reader{c: c}) }

func (e *end) readAllFrom(r reader) {
	before := r.c.at
	err := r.c.drain(r)
	e.note("read %d bytes%s, then %s", r.c.at-before, r.c.verdict(), errnoName(err))
}

// readOf reads to the end. Of how many bytes were sent, only whether none, some or all came is noted: how much fills the
// buffers on a path is no matter of what TCP promises.
func (e *end) readOf(c *conn, sent int) {
	err := c.drain(reader{c: c})
	much := "some"
	switch c.at {
	case 0:
		much = "none"
	case sent:
		much = "all"
	}
	e.note("read %s of the bytes%s, then %s", much, c.verdict(), errnoName(err))
}

// arrived waits until n bytes lie unread in a socket.
func (e *end) arrived(c *conn, n int) {
	for began := time.Now(); time.Since(began) < patience; time.Sleep(time.Millisecond) {
		got, err := unix.IoctlGetInt(c.fd, unix.SIOCINQ)
		e.must("SIOCINQ", err)
		if got >= n {
			return
		}
	}
	e.stop("%d bytes do not arrive: timeout", n)
}

// writeUntilError writes single bytes until the other end's reset or close is noticed.
func (e *end) writeUntilError(c *conn) {
	for began := time.Now(); time.Since(began) < patience; time.Sleep(5 * time.Millisecond) {
		if err := writeAll(c.fd, c.next(1)); err != nil {
			e.note("write until %s", errnoName(err))
			return
		}
	}
	e.note("write until timeout")
}

// stuff writes until nothing moves any more, and gives how much: all buffers on the way are full.
func (e *end) stuff(c *conn) int {
	e.must("SO_SNDTIMEO", timeLimit(c.fd, unix.SO_SNDTIMEO, 300*time.Millisecond))
	n, err := c.write(256<<20, piece)
	if !errors.Is(err, unix.EAGAIN) {
		e.stop("write until %s, want full buffers", errnoName(err))
	}
	return n
}

func (e *end) shutdown(c *conn, how int) { e.must("shutdown", unix.Shutdown(c.fd, how)) }

func (e *end) closeWrite(c *conn) { e.shutdown(c, unix.SHUT_WR) }

func (e *end) close(c *conn) {
	for i, o := range e.open {
		if o == c {
			e.open = append(e.open[:i], e.open[i+1:]...)
			_ = unix.Close(c.fd)
			c.fd = -1
			return
		}
	}
}

// reset ends a connection by RST.
func (e *end) reset(c *conn) {
	e.must("SO_LINGER", unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	e.close(c)
}

// resetTime is how long the kernel may take for a reset. It sets the error first, then the state, then the shutdown, and a
// poll on another processor sees what is there so far.
const resetTime = 50 * time.Millisecond

// poll waits for events on a socket.
func (e *end) poll(c *conn, wanted int16) int16 {
	p := []unix.PollFd{{Fd: int32(c.fd), Events: wanted}}
	n, err := again(func() (int, error) { return unix.Poll(p, int(patience.Milliseconds())) })
	e.must("poll", err)
	if n == 0 {
		e.stop("poll: timeout")
	}
	if p[0].Revents&unix.POLLERR != 0 {
		time.Sleep(resetTime)
		_, err = again(func() (int, error) { return unix.Poll(p, 0) })
		e.must("poll", err)
	}
	return p[0].Revents
}

// events waits for events on a socket and notes the interesting ones.
func (e *end) events(c *conn, wanted int16) { e.note("events:%s", eventNames(e.poll(c, wanted))) }

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

// soError takes a socket's error.
func (e *end) soError(c *conn) error {
	no, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	e.must("SO_ERROR", err)
	if no == 0 {
		return nil
	}
	return unix.Errno(no)
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
