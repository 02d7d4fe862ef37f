package tunnel

import (
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// listenLoopback listens on a port of the loopback address, as a pod's listeners do.
func listenLoopback(t *testing.T) (s *socket, at string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1024); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = newSocket(fd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s, addrPort(sa).String()
}

// TestAcceptorTakesTurns: of many connections that wait in a backlog, one is accepted, and then others have their turn.
func TestAcceptorTakesTurns(t *testing.T) {
	l, at := listenLoopback(t)
	const many = 300
	for range many {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	// With one processor, what an accepted connection starts runs only if the acceptor lets it.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var served atomic.Int64
	accepted, most := int64(0), int64(0)
	acceptor{closed: func() bool { return true }, serve: func(fd int, _ netip.AddrPort) {
		_ = unix.Close(fd)
		accepted++
		most = max(most, accepted-served.Load())
		go served.Add(1)
		if accepted == many {
			l.interrupt()
		}
	}}.acceptAll(l)
	if accepted != many {
		t.Fatalf("%d connections were accepted, want %d", accepted, many)
	}
	if most > 10 {
		t.Errorf("%d accepted connections waited for the acceptor", most)
	}
}
