package datapath

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// TestDatagramsBesideManySockets: a pod that sends from one new socket after the other does not make the node forget what the
// sockets of others sent to.
func TestDatagramsBesideManySockets(t *testing.T) {
	n := newNode(t)
	a, pods := udpPods(t, n, "b", "mallory")
	own := func(ip netip.Addr) netip.AddrPort { return netip.AddrPortFrom(ip, 4000) }
	backend := func(ip netip.Addr) netip.AddrPort { return netip.AddrPortFrom(ip, 5354) }
	n.service(model.UDP, false, 0, backend(pods["b"].Address), backend(pods["b"].Address6))
	forUDPKinds(t, func(t *testing.T, v6 bool, address func(*lab.Pod) netip.Addr) {
		c, s := udpIn(t, a, v6), udpIn(t, pods["b"], v6)
		for conn, at := range map[*udpConn]netip.AddrPort{c: own(address(a)), s: backend(address(pods["b"]))} {
			if err := unix.Bind(conn.fd, conn.sockaddr(at)); err != nil {
				t.Fatal(err)
			}
		}
		service := vip(address(a))
		c.send(service)
		sendFromMany(t, pods["mallory"], v6, service)
		s.send(own(address(a)))
		c.expect("after 50,000 sockets of another pod", "x", service)
	})
}

// sendFromMany sends a datagram from each of 50,000 sockets.
func sendFromMany(t *testing.T, p *lab.Pod, v6 bool, to netip.AddrPort) {
	t.Helper()
	err := p.Do(func() error {
		for range 50_000 {
			if err := sendOnce(v6, to); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sendOnce(v6 bool, to netip.AddrPort) error {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte("x"), 0, (&udpConn{v6: v6}).sockaddr(to))
}
