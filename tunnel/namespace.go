package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/setns"
)

const (
	// originalSourceMark is the SO_MARK of connections that carry the client's address: the workload's answers to them
	// are led back here, and not to the client.
	originalSourceMark = model.ProxyMark
	backlog            = 4096
	// spareSockets is how many sockets are made at once for connections to applications: to enter a namespace costs more
	// than to make one.
	spareSockets = 16
)

// namespace is a pod's network namespace. It lives while it is open, though the pod is gone.
type namespace struct {
	file *os.File

	mu    sync.Mutex
	spare map[int][]int // by family
}

func openNamespace(path string) (*namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	return &namespace{file: f, spare: map[int][]int{}}, nil
}

// inode tells it apart from others at its path. The kernel gives a number out again, but only when nobody has the namespace open.
func (n *namespace) inode() (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(n.file.Fd()), &st)
	return st.Ino, err
}

func (n *namespace) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, all := range n.spare {
		for _, fd := range all {
			_ = unix.Close(fd)
		}
	}
	n.spare = nil
	n.file.Close()
}

// hostNamespace is the path to the one that this process is in. The thread's, because the main thread may be in a pod's at the
// moment, and those that are run no other goroutine.
const hostNamespace = "/proc/thread-self/ns/net"

// do runs f on a thread that is in the namespace. Goroutines that f starts are not in it.
func (n *namespace) do(f func() error) error { return setns.Network.Do(int(n.file.Fd()), f) }

// addressTo returns the address from which the namespace sends to another one; not a valid one if there is no way.
func (n *namespace) addressTo(to netip.Addr) (from netip.Addr) {
	_ = n.do(func() error {
		fd, err := unix.Socket(familyOf(to), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(to, 9))); err != nil {
			return err
		}
		own, err := unix.Getsockname(fd)
		if err == nil {
			from = addrPort(own).Addr()
		}
		return err
	})
	return from
}

// listen listens at an address of the namespace.
func (n *namespace) listen(at netip.AddrPort) (s *socket, err error) {
	err = n.do(func() error {
		fd, err := unix.Socket(familyOf(at.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := listen(fd, at); err != nil {
			_ = unix.Close(fd)
			return err
		}
		s, err = newSocket(fd)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", at, err)
	}
	return s, nil
}

func listen(fd int, at netip.AddrPort) error {
	if at.Addr().Is6() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	// The process that comes after this one listens before this one stops.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	// Accepted connections inherit what follows. An urgent byte is passed on in its place, but not as urgent.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	// The address may be one that the pod gets later.
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
		return err
	}
	err := unix.Bind(fd, sockaddr(at))
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w: %w", errPortTaken, err)
	}
	return err
}

// errPortTaken means that another process of the network namespace listens on a port of weft tunnel.
var errPortTaken = errors.New("a process there has the port")

// dial begins to connect to another pod.
func (n *namespace) dial(to netip.AddrPort) (s *socket, err error) {
	err = n.do(func() error {
		fd, err := unix.Socket(familyOf(to.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err = unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			_ = unix.Close(fd)
			return err
		}
		s, err = newSocket(fd)
		return err
	})
	return s, err
}

// connect begins to connect to the workload's application. The application sees the client's address, and its port
// unless another connection has both. That may be a connection of the tunnel, which the kernel knows of, or one that the
// client made directly, which proxy_connect4 and proxy_connect6 of the datapath look for.
func (n *namespace) connect(from, to netip.AddrPort) (*socket, error) {
	var err error
	for _, port := range []uint16{from.Port(), 0, 0, 0} {
		var fd int
		if fd, err = n.take(familyOf(to.Addr())); err != nil {
			return nil, err
		}
		err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(from.Addr(), port)))
		if err == nil {
			err = unix.Connect(fd, sockaddr(to))
		}
		if err == nil || errors.Is(err, unix.EINPROGRESS) {
			return newSocket(fd)
		}
		_ = unix.Close(fd)
		if !isTaken(err) {
			break
		}
	}
	return nil, err
}

// isTaken reports whether another port may do. Linux before 6.1 says EPERM where a program refuses.
func isTaken(err error) bool {
	return errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EPERM)
}

// take gives a socket for a connection to an application.
func (n *namespace) take(family int) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.spare == nil {
		return 0, os.ErrClosed
	}
	if len(n.spare[family]) == 0 {
		if err := n.do(func() error { return n.fill(family) }); err != nil {
			return 0, err
		}
	}
	last := len(n.spare[family]) - 1
	fd := n.spare[family][last]
	n.spare[family] = n.spare[family][:last]
	return fd, nil
}

func (n *namespace) fill(family int) error {
	for range spareSockets {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := carryClient(fd, family); err != nil {
			_ = unix.Close(fd)
			return err
		}
		n.spare[family] = append(n.spare[family], fd)
	}
	return nil
}

// carryClient lets a socket be bound to the client's address.
func carryClient(fd, family int) error {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if family == unix.AF_INET6 {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	for _, o := range []struct{ level, option, value int }{
		{level, option, 1},
		{unix.SOL_SOCKET, unix.SO_MARK, originalSourceMark},
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
			return fmt.Errorf("socket option %d of level %d: %w", o.option, o.level, err)
		}
	}
	return nil
}

// originalDestination is where an application wanted to connect to when the kernel led it here.
func originalDestination(fd int, v4 bool) (netip.AddrPort, error) {
	const soOriginalDst = 80 // include/uapi/linux/netfilter_ipv4.h; the IPv6 one has the same number
	if v4 {
		v, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst) // a struct that is at least as large
		if err != nil {
			return netip.AddrPort{}, err
		}
		b := v.Multiaddr
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3])), nil
	}
	v, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port := v.Addr.Port
	return netip.AddrPortFrom(netip.AddrFrom16(v.Addr.Addr), port<<8|port>>8), nil
}
