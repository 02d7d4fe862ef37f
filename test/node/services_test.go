package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// services is the kernel's part.
func services(t *testing.T, m *mesh) {
	c, s1 := m.Pod("plain", "c"), m.Pod("plain", "s1")
	t.Run("balanced in both families", func(t *testing.T) {
		for _, ip := range serviceIPs("plain", "l4") {
			seen := map[string]int{}
			for range 60 {
				s, err := open(c, at(ip, 70))
				if err != nil {
					t.Fatal(err)
				}
				seen[s.server]++
				if peer := s.RemoteAddr().String(); peer != at(ip, 70) {
					t.Fatalf("getpeername says %s, want %s", peer, at(ip, 70))
				}
				if from := netip.MustParseAddrPort(s.client).Addr(); from != c.Address && from != c.Address6 {
					t.Fatalf("the server sees %s", from)
				}
				_ = s.Close()
			}
			if len(seen) != 2 {
				t.Errorf("%s: backends %v", ip, seen)
			}
		}
	})
	t.Run("affinity", func(t *testing.T) {
		for _, ip := range serviceIPs("plain", "sticky") {
			first := ""
			for range 30 {
				s, err := open(c, at(ip, 70))
				if err != nil {
					t.Fatal(err)
				}
				_ = s.Close()
				if first == "" {
					first = s.server
				}
				if s.server != first {
					t.Fatalf("%s: first %s, then %s", ip, first, s.server)
				}
			}
		}
	})
	t.Run("UDP", func(t *testing.T) { datagrams(t, m) })
	t.Run("own address and own Service", func(t *testing.T) {
		srv := m.Pod("strict", "srv")
		for _, addr := range []string{
			at(srv.Address, 7070), at(srv.Address6, 7070), "127.0.0.1:7070", "[::1]:7070",
			at(serviceIPs("strict", "srv")[0], 70), at(serviceIPs("strict", "srv")[1], 70),
		} {
			s, err := open(srv, addr)
			if err != nil {
				t.Errorf("a strict pod to itself at %s: %v", addr, err)
				continue
			}
			if err := s.echo("me"); err != nil {
				t.Error(err)
			}
			_ = s.Close()
		}
		for _, ip := range serviceIPs("strict", "l7") {
			if err := want(srv, at(ip, 80), request{path: "/"}, 200, "strict/srv"); err != nil {
				t.Errorf("a strict pod to itself, L7: %v", err)
			}
		}
		for _, ip := range serviceIPs("plain", "self") {
			s, err := open(s1, at(ip, 70))
			if err != nil {
				t.Errorf("a pod to itself by its Service: %v", err)
				continue
			}
			_ = s.Close()
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		// Refused by the other end, in the clear and by weft tunnel, where the client is connected before.
		for _, p := range []string{"plain/c", "strict/alice"} {
			ns, name, _ := strings.Cut(p, "/")
			for _, ip := range []netip.Addr{m.Pod("perm", "srv").Address, m.Pod("perm", "srv").Address6} {
				_, err := open(m.Pod(ns, name), at(ip, 7999))
				if !errors.Is(err, syscall.ECONNREFUSED) && !(ns == "strict" && errors.Is(err, syscall.ECONNRESET)) {
					t.Errorf("%s: %v, want that it is refused, or reset by weft tunnel", p, err)
				}
			}
		}
	})
}

// datagrams: connected sockets, and unconnected ones as a resolver uses them, see the Service's address only.
func datagrams(t *testing.T, m *mesh) {
	c := m.Pod("plain", "c")
	for _, ip := range serviceIPs("plain", "l4") {
		seen := map[string]bool{}
		for i := range 40 {
			text := fmt.Sprint("query ", i)
			connected := i%2 == 0
			who, from, err := query(c.Do, ip, text, connected)
			if err != nil {
				t.Fatalf("%s, connected %t: %v", ip, connected, err)
			}
			if from != netip.AddrPortFrom(ip, 53) {
				t.Fatalf("%s, connected %t: the answer is from %s", ip, connected, from)
			}
			seen[who] = true
		}
		if len(seen) != 2 {
			t.Errorf("%s: backends %v", ip, seen)
		}
	}
}

// query sends a datagram to port 53 and gives who answered and from which address.
func query(do func(func() error) error, ip netip.Addr, text string, connected bool) (who string, from netip.AddrPort, err error) {
	err = do(func() error {
		to := netip.AddrPortFrom(ip, 53)
		var c *net.UDPConn
		if connected {
			c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		} else {
			c, err = net.ListenUDP("udp", nil)
		}
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if connected {
			_, err = c.Write([]byte(text))
		} else {
			_, err = c.WriteToUDPAddrPort([]byte(text), to)
		}
		if err != nil {
			return err
		}
		buf := make([]byte, 2048)
		n, src, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		pod, echoed, _ := strings.Cut(string(buf[:n]), " ")
		if echoed != text {
			return fmt.Errorf("%q came back", buf[:n])
		}
		who, from = pod, netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
		return nil
	})
	return who, from, err
}
