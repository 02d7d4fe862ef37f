package datapath

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

func TestDatagrams(t *testing.T) {
	n := newNode(t)
	a := testenv.Pod(t, n.lab, "a")
	put(n, n.st.Workloads, workload(a, model.MTLSStrict))
	var backends []netip.AddrPort
	for _, name := range []string{"b", "c", "d"} {
		p := testenv.Pod(t, n.lab, name)
		put(n, n.st.Workloads, workload(p, model.MTLSStrict)) // never authenticated, and never refused
		for _, ip := range addrs(p) {
			udpEcho(t, p, name, netip.AddrPortFrom(ip, 5353))
			backends = append(backends, netip.AddrPortFrom(ip, 5353))
		}
	}
	n.service(model.UDP, false, 0, backends...)
	for _, ip := range addrs(a) {
		for _, connected := range []bool{true, false} {
			seen := map[string]bool{}
			for range 40 {
				c := udpSocket(t, a, vip(ip), connected)
				first := ""
				for range 3 {
					name, from := udpAsk(t, c, vip(ip), connected)
					if from != vip(ip) {
						t.Errorf("connected %v: the answer came from %s, want the Service %s", connected, from, vip(ip))
					}
					if first == "" {
						first = name
					}
					if name != first {
						t.Errorf("connected %v: one socket met %s and %s", connected, first, name)
					}
				}
				seen[first] = true
				c.Close()
			}
			if len(seen) < 2 {
				t.Errorf("%s connected %v: all sockets met %v", ip, connected, seen)
			}
		}
	}
	n.service(model.UDP, false, 0)
	c := udpSocket(t, a, vip(a.Address), false)
	defer c.Close()
	if _, err := c.WriteToUDPAddrPort([]byte("x"), vip(a.Address)); !refused(err) {
		t.Errorf("no backend: %v, want connection refused", err)
	}
}

func udpEcho(t testing.TB, p *lab.Pod, name string, at netip.AddrPort) {
	var c *net.UDPConn
	err := p.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 100)
		for {
			_, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort([]byte(name), from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
}

func udpSocket(t testing.TB, p *lab.Pod, to netip.AddrPort, connected bool) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := p.Do(func() (err error) {
		if connected {
			c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
			return err
		}
		network := "udp4"
		if to.Addr().Is6() {
			network = "udp6"
		}
		c, err = net.ListenUDP(network, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func udpAsk(t *testing.T, c *net.UDPConn, to netip.AddrPort, connected bool) (string, netip.AddrPort) {
	t.Helper()
	var err error
	if connected {
		_, err = c.Write([]byte("x"))
	} else {
		_, err = c.WriteToUDPAddrPort([]byte("x"), to)
	}
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	m, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:m]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// udpKinds are the kinds of UDP sockets: by the family of the socket, and of the addresses that it uses.
var udpKinds = []struct {
	name     string
	v6, ipv6 bool // the socket; the addresses
}{{"IPv4", false, false}, {"IPv6", true, true}, {"mapped", true, false}}

// forUDPKinds runs a test for each kind of socket. address picks a pod's address of the family.
func forUDPKinds(t *testing.T, f func(t *testing.T, v6 bool, address func(p *lab.Pod) netip.Addr)) {
	for _, k := range udpKinds {
		t.Run(k.name, func(t *testing.T) {
			f(t, k.v6, func(p *lab.Pod) netip.Addr {
				if k.ipv6 {
					return p.Address6
				}
				return p.Address
			})
		})
	}
}

// udpConn is a UDP socket by its descriptor. Its peer may be changed by connect.
type udpConn struct {
	t  *testing.T
	fd int
	v6 bool
}

// udpIn makes a socket in a pod; of the host if p is nil.
func udpIn(t *testing.T, p *lab.Pod, v6 bool) *udpConn {
	t.Helper()
	c := &udpConn{t: t, v6: v6}
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	do := func(f func() error) error { return f() }
	if p != nil {
		do = p.Do
	}
	err := do(func() (err error) {
		if c.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(c.fd) })
	return c
}

func (c *udpConn) sockaddr(a netip.AddrPort) unix.Sockaddr {
	if c.v6 {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

func fromSockaddr(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

func (c *udpConn) connect(to netip.AddrPort) {
	c.t.Helper()
	if err := unix.Connect(c.fd, c.sockaddr(to)); err != nil {
		c.t.Fatalf("connect to %s: %v", to, err)
	}
}

// disconnect dissolves the association, as connect() with AF_UNSPEC does.
func (c *udpConn) disconnect() {
	c.t.Helper()
	unspec := make([]byte, unix.SizeofSockaddrInet4)
	if err := connectRaw(c.fd, unspec); err != nil {
		c.t.Fatalf("connect to AF_UNSPEC: %v", err)
	}
}

// send sends to an address; to the peer if it is the zero value.
func (c *udpConn) send(to netip.AddrPort) {
	c.t.Helper()
	var err error
	if to.IsValid() {
		err = unix.Sendto(c.fd, []byte("x"), 0, c.sockaddr(to))
	} else {
		_, err = unix.Write(c.fd, []byte("x"))
	}
	if err != nil {
		c.t.Fatalf("send to %s: %v", to, err)
	}
}

// receive returns who answered, and the address that the answer is shown to be from.
func (c *udpConn) receive() (name string, from netip.AddrPort, err error) {
	b := make([]byte, 100)
	n, sa, err := unix.Recvfrom(c.fd, b, 0)
	if err != nil {
		return "", netip.AddrPort{}, err
	}
	return string(b[:n]), fromSockaddr(sa), nil
}

// expect receives an answer of name that must be shown to be from an address.
func (c *udpConn) expect(what, name string, from netip.AddrPort) {
	c.t.Helper()
	n, f, err := c.receive()
	if err != nil || n != name || f != from {
		c.t.Errorf("%s: answered by %q from %s (%v), want %q from %s", what, n, f, err, name, from)
	}
}

func (c *udpConn) expectPeer(what string, want netip.AddrPort) {
	c.t.Helper()
	sa, err := unix.Getpeername(c.fd)
	if err != nil || fromSockaddr(sa) != want {
		c.t.Errorf("%s: the peer is %s (%v), want %s", what, fromSockaddr(sa), err, want)
	}
}

// udpPods joins a client, and servers that answer with their names on port 5353.
func udpPods(t *testing.T, n *node, servers ...string) (a *lab.Pod, pods map[string]*lab.Pod) {
	t.Helper()
	a, pods = testenv.Pod(t, n.lab, "a"), map[string]*lab.Pod{}
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	for _, name := range servers {
		p := testenv.Pod(t, n.lab, name)
		pods[name] = p
		for _, ip := range addrs(p) {
			udpEcho(t, p, name, netip.AddrPortFrom(ip, 5353))
		}
		put(n, n.st.Workloads, workload(p, model.MTLSDisabled))
	}
	return a, pods
}

// dns are the backends that udpPods serves.
func dns(pods ...*lab.Pod) (out []netip.AddrPort) {
	for _, p := range pods {
		for _, ip := range addrs(p) {
			out = append(out, netip.AddrPortFrom(ip, 5353))
		}
	}
	return out
}

// TestDatagramsAfterABackendIsGone: a connected socket would send to the backend that it got for ever.
func TestDatagramsAfterABackendIsGone(t *testing.T) {
	n := newNode(t)
	a, pods := udpPods(t, n, "b", "c")
	forUDPKinds(t, func(t *testing.T, v6 bool, address func(*lab.Pod) netip.Addr) {
		n.service(model.UDP, false, 0, dns(pods["b"])...)
		to, direct := vip(address(a)), netip.AddrPortFrom(address(pods["b"]), 5353)
		inPod, onHost, toPod, unconnected := udpIn(t, a, v6), udpIn(t, nil, v6), udpIn(t, a, v6), udpIn(t, a, v6)
		inPod.connect(to)
		onHost.connect(to)
		toPod.connect(direct)
		for what, c := range map[string]*udpConn{"in the pod": inPod, "on the host": onHost} {
			c.send(netip.AddrPort{})
			c.expect(what, "b", to)
		}
		unconnected.send(to)
		unconnected.expect("unconnected", "b", to)

		n.service(model.UDP, false, 0, dns(pods["b"], pods["c"])...)
		inPod.send(netip.AddrPort{})
		inPod.expect("after another backend came", "b", to)

		n.service(model.UDP, false, 0, dns(pods["c"])...)
		for what, c := range map[string]*udpConn{"in the pod": inPod, "on the host": onHost} {
			if name, _, err := c.receive(); !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("%s: a socket whose backend is gone got %q (%v), want ECONNABORTED", what, name, err)
			}
			c.connect(to)
			c.send(netip.AddrPort{})
			c.expect(what+", connected again", "c", to)
		}
		toPod.send(netip.AddrPort{})
		toPod.expect("connected to the pod itself", "b", direct)
		unconnected.send(to)
		unconnected.expect("unconnected", "c", to)
	})
	if fault := n.faultOf("ns/a"); fault != "" {
		t.Errorf("the pod is reported: %s", fault)
	}
}

// TestDatagramsAfterABackendIsGoneWithoutAnAgent: the next agent finds the sockets.
func TestDatagramsAfterABackendIsGoneWithoutAnAgent(t *testing.T) {
	n := newNode(t)
	a, pods := udpPods(t, n, "b", "c")
	n.service(model.UDP, false, 0, dns(pods["b"])...)
	c := udpIn(t, a, false)
	c.connect(vip(a.Address))
	n.end()
	e := &model.Endpoints{Service: "ns/svc", Port: 80, Protocol: model.UDP}
	for _, b := range dns(pods["c"]) {
		e.Backends = append(e.Backends, model.Endpoint{Address: b})
	}
	put(n, n.st.Endpoints, e)
	n.start()
	if name, _, err := c.receive(); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("a socket whose backend is gone got %q (%v), want ECONNABORTED", name, err)
	}
}

// TestDatagramsOfATerminatingBackend: it serves the sockets that have it, and gets no new ones.
func TestDatagramsOfATerminatingBackend(t *testing.T) {
	n := newNode(t)
	a, pods := udpPods(t, n, "b", "c")
	n.service(model.UDP, false, 0, dns(pods["b"])...)
	to := vip(a.Address)
	c := udpIn(t, a, false)
	c.connect(to)
	e := &model.Endpoints{Service: "ns/svc", Port: 80, Protocol: model.UDP, Backends: []model.Endpoint{
		{Address: dns(pods["b"])[0], Terminating: true}, {Address: dns(pods["c"])[0]},
	}}
	put(n, n.st.Endpoints, e)
	n.sync()
	c.send(netip.AddrPort{})
	c.expect("from before", "b", to)
	later := udpIn(t, a, false)
	later.connect(to)
	later.send(netip.AddrPort{})
	later.expect("new", "c", to)
}

// otherService puts a second Service with backends on the node.
func (n *node) otherService(backends ...netip.AddrPort) (vip4, vip6 netip.AddrPort) {
	n.t.Helper()
	vip4, vip6 = netip.MustParseAddrPort("10.96.7.2:81"), netip.MustParseAddrPort("[fd96::7:2]:81")
	e := &model.Endpoints{Service: "ns/other", Port: 81, Protocol: model.UDP}
	for _, b := range backends {
		e.Backends = append(e.Backends, model.Endpoint{Address: b})
	}
	put(n, n.st.Endpoints, e)
	put(n, n.st.Services, &model.Service{
		Namespace: "ns", Name: "other", Addresses: []netip.Addr{vip4.Addr(), vip6.Addr()},
		Ports: []model.ServicePort{{Port: 81, Protocol: model.UDP}},
	})
	n.sync()
	return vip4, vip6
}

// TestDatagramsOfOneBackendInSeveralRoles: a socket reaches one backend by two Services and by itself.
func TestDatagramsOfOneBackendInSeveralRoles(t *testing.T) {
	n := newNode(t)
	a, pods := udpPods(t, n, "b", "c")
	n.service(model.UDP, false, 0, dns(pods["b"])...)
	other4, other6 := n.otherService(dns(pods["b"])...)
	forUDPKinds(t, func(t *testing.T, v6 bool, address func(*lab.Pod) netip.Addr) {
		one, other, direct := vip(address(a)), other4, netip.AddrPortFrom(address(pods["b"]), 5353)
		if address(a).Is6() {
			other = other6
		}
		c := udpIn(t, a, v6)
		for _, to := range []netip.AddrPort{one, other, one, direct, other, direct, one} {
			c.send(to)
			c.expect("unconnected, to "+to.String(), "b", to)
		}
		c = udpIn(t, a, v6)
		for _, to := range []netip.AddrPort{one, direct, other, one, direct} {
			c.connect(to)
			c.expectPeer("connected to "+to.String(), to)
			c.send(netip.AddrPort{})
			c.expect("connected to "+to.String(), "b", to)
		}
		// What connect() left does not show once there is no peer.
		c.connect(one)
		c.send(netip.AddrPort{})
		c.expect("connected to "+one.String(), "b", one)
		c.disconnect()
		if sa, err := unix.Getpeername(c.fd); !errors.Is(err, unix.ENOTCONN) {
			t.Errorf("without a peer: %v %v, want ENOTCONN", sa, err)
		}
		for _, to := range []netip.AddrPort{direct, one, other, direct} {
			c.send(to)
			c.expect("disconnected, to "+to.String(), "b", to)
		}
	})
}

// TestDatagramsAfterDisconnect: a datagram that nobody asked for, from a backend to a socket that was connected to its Service.
func TestDatagramsAfterDisconnect(t *testing.T) {
	n := newNode(t)
	a, pods := udpPods(t, n, "b")
	at := func(p *lab.Pod, ip func(*lab.Pod) netip.Addr, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(ip(p), port)
	}
	n.service(model.UDP, false, 0, at(pods["b"], func(p *lab.Pod) netip.Addr { return p.Address }, 5354),
		at(pods["b"], func(p *lab.Pod) netip.Addr { return p.Address6 }, 5354))
	forUDPKinds(t, func(t *testing.T, v6 bool, address func(*lab.Pod) netip.Addr) {
		own, backend := at(a, address, 4000), at(pods["b"], address, 5354)
		c, s := udpIn(t, a, v6), udpIn(t, pods["b"], v6)
		for conn, at := range map[*udpConn]netip.AddrPort{c: own, s: backend} {
			if err := unix.Bind(conn.fd, conn.sockaddr(at)); err != nil {
				t.Fatal(err)
			}
		}
		c.connect(vip(address(a)))
		s.send(own)
		c.expect("connected", "x", vip(address(a)))
		c.disconnect()
		s.send(own)
		c.expect("disconnected", "x", backend)
	})
}

// TestDatagramsOfTwoServicesInFlight: where two Services share backends, one socket gets another backend of each, since
// an answer tells only which backend it is from.
func TestDatagramsOfTwoServicesInFlight(t *testing.T) {
	n := newNode(t)
	a, pods := udpPods(t, n, "b", "c")
	n.service(model.UDP, false, 0, dns(pods["b"], pods["c"])...)
	other4, other6 := n.otherService(dns(pods["b"], pods["c"])...)
	forUDPKinds(t, func(t *testing.T, v6 bool, address func(*lab.Pod) netip.Addr) {
		one, other := vip(address(a)), other4
		if address(a).Is6() {
			other = other6
		}
		for range 20 {
			c := udpIn(t, a, v6)
			c.send(one)
			c.send(other)
			seen := map[netip.AddrPort]bool{}
			for range 2 {
				_, from, err := c.receive()
				if err != nil {
					t.Fatal(err)
				}
				seen[from] = true
			}
			if !seen[one] || !seen[other] {
				t.Fatalf("answers are from %v, want one from each of %s and %s", seen, one, other)
			}
		}
	})
}

// connectRaw is connect(2) with the bytes of an address: package unix has none for AF_UNSPEC.
func connectRaw(fd int, addr []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr[0])), uintptr(len(addr)))
	if errno != 0 {
		return errno
	}
	return nil
}
