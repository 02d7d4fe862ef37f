package node

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// samePort changes a server's mode while a client is connected, and connects again from the same port. The kernel allows
// that: one of the connections is led to a loopback address, so the two do not have the same ends in the client's namespace.
// In the server's namespace they would have the same ends.
func samePort(t *testing.T, m *mesh, mode func(string)) {
	client, srv := m.Pod("perm", "c"), m.Pod("flip", "srv")
	for _, ip := range both(srv) {
		to := at(ip, 7070)
		mode("disabled")
		direct := openUntil(t, client, to, false)
		mode("permissive")
		openUntil(t, client, to, true)
		led, err := openFrom(client, direct.port(), to)
		if err != nil {
			t.Errorf("%s, from the port of a direct connection: %v", to, err)
		} else {
			defer led.Close()
			if !redirected(t, client, led.port()) {
				t.Errorf("%s: it is not led to a proxy", to)
			}
		}
		if err := direct.echo("direct"); err != nil {
			t.Errorf("%s, the direct connection: %v", to, err)
		}
		led = openUntil(t, client, to, true)
		mode("disabled")
		openUntil(t, client, to, false)
		if m.bytesPort == model.PortTunnel {
			until(t, "the reservation", func() error { return reserved(client, netip.AddrPortFrom(own(client, ip), led.port())) })
		}
		again, err := openFrom(client, led.port(), to)
		if err == nil {
			defer again.Close()
		} else if !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Errorf("%s, from the port of a connection that a proxy carries: %v", to, err)
		}
		if err := led.echo("led"); err != nil {
			t.Errorf("%s, the connection that a proxy carries: %v", to, err)
		}
	}
}

// own is a pod's address of the family of another.
func own(p *lab.Pod, like netip.Addr) netip.Addr {
	if like.Is4() {
		return p.Address
	}
	return p.Address6
}

// reserved returns nil if something is bound to a port of a pod's address. It sets SO_REUSEADDR, so as not to reserve the port
// itself.
func reserved(pod *lab.Pod, at netip.AddrPort) error {
	return pod.Do(func() error {
		family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())})
		if at.Addr().Is4() {
			family, address = unix.AF_INET, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		switch err := unix.Bind(fd, address); {
		case errors.Is(err, unix.EADDRINUSE):
			return nil
		case err != nil:
			return err
		}
		return errors.New("the port is free")
	})
}

func (s *stream) port() uint16 { return s.LocalAddr().(*net.TCPAddr).AddrPort().Port() }

// openUntil connects until the connection goes directly, or is led to a proxy.
func openUntil(t *testing.T, from *lab.Pod, to string, led bool) (s *stream) {
	t.Helper()
	until(t, "the mode", func() (err error) {
		if s, err = open(from, to); err != nil {
			return err
		}
		if redirected(t, from, s.port()) != led {
			_ = s.Close()
			return errors.New("connections go the other way still")
		}
		return nil
	})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// redirected reports whether a pod's connection from a port is led to a proxy.
func redirected(t *testing.T, pod *lab.Pod, port uint16) (yes bool) {
	t.Helper()
	err := pod.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			all, err := netlink.SocketDiagTCP(family)
			if err != nil {
				return err
			}
			for _, s := range all {
				yes = yes || s.ID.SourcePort == port && s.ID.Destination.IsLoopback()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return yes
}

// openFrom connects from a port that the kernel finds: it is the only one that it may look at.
func openFrom(from *lab.Pod, port uint16, to string) (*stream, error) {
	const ipLocalPortRange = 51 // include/uapi/linux/in.h
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, ipLocalPortRange, int(port)<<16|int(port))
		})
		return errors.Join(cerr, err)
	}}
	var c net.Conn
	err := from.Do(func() (err error) {
		c, err = d.Dial("tcp", netip.MustParseAddrPort(to).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	s := &stream{Conn: c, in: bufio.NewReader(c)}
	_ = s.SetDeadline(time.Now().Add(patience))
	line, err := s.in.ReadString('\n')
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	s.server, s.client, _ = strings.Cut(strings.TrimSpace(line), " ")
	return s, s.echo("here")
}
