package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Load says what the client does.
type Load struct {
	Target      netip.AddrPort // IPv4
	Connections int
	Duration    time.Duration
	// Reopen opens a connection for every request and closes it after the answer: with a reset, so that no port waits in
	// TIME_WAIT, or with FIN.
	Reopen bool
	FIN    bool
	// Once sends one request on each connection and leaves it idle then. They are opened a few at a time.
	Once bool
	// Unread is the number of downloads that the client asks for and does not read, beside the requests. The latencies
	// are then those of requests that got no answer too, as if they got it at the end.
	Unread int
	// Stream reads /stream on one connection instead.
	Stream bool
	// Questions asks DNS by UDP instead: each connection is a socket, and begins a question Every so often, or as soon as it has
	// the answer to the last one if Every is 0.
	Questions bool
	Every     time.Duration
}

// Result of a Load.
type Result struct {
	Requests int           `json:"requests"` // answered by 200
	Failed   int           `json:"failed"`
	Error    string        `json:"error,omitempty"` // the last one
	Took     time.Duration `json:"took"`
	P50      time.Duration `json:"p50"`
	P99      time.Duration `json:"p99"`
	Bytes    int64         `json:"bytes,omitempty"` // Stream
	CPU      time.Duration `json:"cpu"`             // of the client's process
}

var request = []byte("GET / HTTP/1.1\r\nhost: bench\r\n\r\n")

// atOnce is how many connections are opened at the same time if they are only held.
const atOnce = 64

// maxFailures ends a load that does not work.
const maxFailures = 1000

// firstAnswer is how much longer a load goes on at most if nothing was answered in its time.
const firstAnswer = 5 * time.Second

type client struct {
	load  Load
	epoll int
	to    unix.SockaddrInet4
	conns map[int]*calling
	left  int // connections that are still to be opened
	took  []time.Duration
	res   Result
}

// calling is a connection with its request.
type calling struct {
	began     time.Time
	connected bool
	in        []byte
	status    int
	size      int // of the whole answer; 0 is unknown
}

// Run makes the load from the calling thread's network namespace.
func Run(l Load) (Result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if l.Stream {
		return stream(l)
	}
	if l.Questions {
		return questions(l)
	}
	c := &client{load: l, conns: map[int]*calling{}, to: unix.SockaddrInet4{Addr: l.Target.Addr().As4(), Port: int(l.Target.Port())},
		took: make([]time.Duration, 0, 1<<18)}
	var err error
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return Result{}, err
	}
	defer unix.Close(c.epoll)
	defer func() {
		for fd := range c.conns {
			_ = unix.Close(fd)
		}
	}()
	unread, err := downloads(l)
	defer closeAll(unread)
	if err != nil {
		return Result{}, err
	}
	began := time.Now()
	c.left = l.Connections
	if l.Once {
		c.left = min(c.left, atOnce)
	}
	for range c.left {
		c.open()
	}
	c.left = l.Connections - c.left
	end := began.Add(l.Duration)
	events := make([]unix.EpollEvent, 512)
	buf := make([]byte, 64<<10)
	for c.res.Failed < maxFailures {
		if now := time.Now(); now.After(end) && (len(c.took) > 0 || l.Unread > 0 || now.After(end.Add(firstAnswer))) {
			break
		}
		n, err := unix.EpollWait(c.epoll, events, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return c.res, err
		}
		for _, e := range events[:max(n, 0)] {
			c.handle(int(e.Fd), buf)
		}
	}
	c.res.Took = time.Since(began)
	c.finish(time.Now())
	return c.res, nil
}

func (c *client) finish(end time.Time) {
	c.res.CPU = ownCPU()
	c.res.Requests = len(c.took)
	if c.load.Unread > 0 {
		for _, k := range c.conns {
			c.took = append(c.took, end.Sub(k.began))
		}
	}
	if len(c.took) > 0 {
		slices.Sort(c.took)
		c.res.P50, c.res.P99 = c.took[len(c.took)/2], c.took[len(c.took)*99/100]
	}
}

func ownCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// open begins to connect; failures count and are not tried again at once.
func (c *client) open() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		c.failed(err)
		return
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	k := &calling{began: time.Now()}
	if err = unix.Connect(fd, &c.to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		c.failed(fmt.Errorf("connect: %w", err))
		return
	}
	if err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(fd)}); err != nil {
		_ = unix.Close(fd)
		c.failed(err)
		return
	}
	c.conns[fd] = k
}

func (c *client) failed(err error) {
	c.res.Failed++
	c.res.Error = err.Error()
}

func (c *client) handle(fd int, buf []byte) {
	k := c.conns[fd]
	if k == nil {
		return
	}
	done, err := c.progress(fd, k, buf)
	switch {
	case err != nil:
		c.failed(err)
		c.drop(fd)
		c.open()
	case done && c.load.Reopen:
		if !c.load.FIN {
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		c.drop(fd)
		c.open()
	case done && c.load.Once && c.left > 0:
		c.left--
		c.open()
	case done && c.load.Once:
	case done:
		if err := c.send(fd, k); err != nil {
			c.failed(err)
			c.drop(fd)
			c.open()
		}
	}
}

func (c *client) drop(fd int) {
	_ = unix.Close(fd)
	delete(c.conns, fd)
}

// progress returns true when an answer is complete.
func (c *client) progress(fd int, k *calling, buf []byte) (bool, error) {
	if !k.connected {
		if e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || e != 0 {
			return false, fmt.Errorf("connect: %w", errors.Join(err, unix.Errno(e)))
		}
		k.connected = true
		if err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return false, err
		}
		began := k.began
		err := c.send(fd, k)
		k.began = began // connecting is part of the first request's time
		return false, err
	}
	n, err := unix.Read(fd, buf)
	if errors.Is(err, unix.EAGAIN) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	if n == 0 {
		return false, errors.New("closed before the answer")
	}
	in := buf[:n]
	if len(k.in) > 0 {
		k.in = append(k.in, in...)
		in = k.in
	}
	if k.size == 0 {
		if k.status, k.size, err = parseAnswer(in); err != nil {
			return false, err
		}
	}
	if k.size == 0 || len(in) < k.size {
		k.in = append(k.in[:0], in...)
		return false, nil
	}
	if k.status != 200 {
		return false, fmt.Errorf("status %d", k.status)
	}
	c.took = append(c.took, time.Since(k.began))
	return true, nil
}

func (c *client) send(fd int, k *calling) error {
	k.began, k.in, k.size = time.Now(), k.in[:0], 0
	if n, err := unix.Write(fd, request); err != nil || n < len(request) {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
