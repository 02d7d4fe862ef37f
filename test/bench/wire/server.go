package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"
)

const (
	body      = "0123456789abcdef"
	chunkSize = 256 << 10
)

var (
	streamHead = []byte("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: 1099511627776\r\n\r\n")
	streamPath = []byte("GET /stream ")
	chunk      = make([]byte, chunkSize)
)

// server is one epoll loop.
type server struct {
	epoll, listener int
	answer          []byte
	conns           map[int]*served
}

// served is a connection: what came of a request that is not complete, and whether it gets bytes without end.
type served struct {
	in     []byte
	stream bool
}

// Serve answers on an IPv4 address until ctx ends. It calls itself by name in the header x-served-by.
func Serve(ctx context.Context, listen netip.AddrPort, name string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := &server{conns: map[int]*served{}, answer: fmt.Appendf(nil,
		"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx-served-by: %s\r\ncontent-length: %d\r\n\r\n%s", name, len(body), body)}
	var err error
	if s.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	defer unix.Close(s.listener)
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(s.epoll)
	err = errors.Join(
		unix.SetsockoptInt(s.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(s.listener, &unix.SockaddrInet4{Addr: listen.Addr().As4(), Port: int(listen.Port())}),
		unix.Listen(s.listener, 4096),
		s.watch(unix.EPOLL_CTL_ADD, s.listener, unix.EPOLLIN),
	)
	if err != nil {
		return fmt.Errorf("serve on %s: %w", listen, err)
	}
	defer func() {
		for fd := range s.conns {
			_ = unix.Close(fd)
		}
	}()
	events := make([]unix.EpollEvent, 512)
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(s.epoll, events, 200)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			s.handle(int(e.Fd), buf)
		}
	}
	return nil
}

func (s *server) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(s.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (s *server) handle(fd int, buf []byte) {
	if fd == s.listener {
		for { // all that wait
			c, _, err := unix.Accept4(s.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			_ = unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
			if s.watch(unix.EPOLL_CTL_ADD, c, unix.EPOLLIN) != nil {
				_ = unix.Close(c)
				continue
			}
			s.conns[c] = &served{}
		}
	}
	c := s.conns[fd]
	if c == nil {
		return
	}
	if !s.serve(fd, c, buf) {
		_ = unix.Close(fd)
		delete(s.conns, fd)
	}
}

// serve returns false when the connection is to be closed.
func (s *server) serve(fd int, c *served, buf []byte) bool {
	if c.stream {
		_, err := unix.Write(fd, chunk)
		return err == nil || errors.Is(err, unix.EAGAIN)
	}
	n, err := unix.Read(fd, buf)
	if errors.Is(err, unix.EAGAIN) {
		return true
	}
	if err != nil || n == 0 {
		return false
	}
	in := buf[:n]
	if len(c.in) > 0 {
		c.in = append(c.in, in...)
		in = c.in
	}
	for {
		end := bytes.Index(in, headEnd)
		if end < 0 {
			break
		}
		if bytes.HasPrefix(in, streamPath) {
			c.stream = true
			_, err := unix.Write(fd, streamHead)
			return err == nil && s.watch(unix.EPOLL_CTL_MOD, fd, unix.EPOLLOUT) == nil
		}
		if w, err := unix.Write(fd, s.answer); err != nil || w < len(s.answer) {
			return false
		}
		in = in[end+len(headEnd):]
	}
	c.in = append(c.in[:0], in...)
	return len(c.in) <= maxHead
}
