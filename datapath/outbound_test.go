package datapath

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

func addrs(p *lab.Pod) []netip.Addr { return []netip.Addr{p.Address, p.Address6} }

func vip(a netip.Addr) netip.AddrPort {
	if a.Is6() {
		return netip.AddrPortFrom(vip6, 80)
	}
	return netip.AddrPortFrom(vip4, 80)
}

// answer says who answered, without the peer's address.
func answer(line string) string { return strings.Fields(line + " -")[0] }

func TestServicePicksBackends(t *testing.T) {
	n := newNode(t)
	a, b, c := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b"), testenv.Pod(t, n.lab, "c")
	var backends []netip.AddrPort
	for _, p := range []*lab.Pod{b, c} {
		for _, ip := range addrs(p) {
			echo(t, p, p.Name, netip.AddrPortFrom(ip, 8080).String())
			backends = append(backends, netip.AddrPortFrom(ip, 8080))
		}
	}
	n.service(model.TCP, false, 0, backends...)
	for _, ip := range addrs(a) {
		got := map[string]int{}
		for range 60 {
			conn, line, err := open(a, vip(ip))
			if err != nil {
				t.Fatal(err)
			}
			if peer := conn.RemoteAddr().String(); peer != vip(ip).String() {
				t.Errorf("getpeername says %s, want the Service %s", peer, vip(ip))
			}
			conn.Close()
			got[answer(line)]++
		}
		if len(got) != 2 || got["b"]+got["c"] != 60 {
			t.Errorf("%s: answers by %v, want both backends", ip, got)
		}
	}
}

func refused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

func TestServiceWithoutBackendsRefusesAtOnce(t *testing.T) {
	n := newNode(t)
	a := testenv.Pod(t, n.lab, "a")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	n.service(model.TCP, false, 0)
	for _, ip := range addrs(a) {
		if _, err := ask(a, vip(ip)); !refused(err) {
			t.Errorf("%s: %v, want connection refused", vip(ip), err)
		}
		e := n.waitEvent("refused event", func(e Event) bool { return e.Kind == EventRefused && e.Original == vip(ip) })
		if e.Reason != ReasonNoBackend || e.Verdict != VerdictRefused || e.Workload != "ns/a" || e.Inbound {
			t.Errorf("event %+v", e)
		}
	}
}

func TestUnknownPortOfServiceAddressPasses(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Services, &model.Service{
		Namespace: "ns", Name: "svc", Addresses: addrs(b), Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}},
	})
	n.sync()
	for _, ip := range addrs(b) {
		echo(t, b, "b", netip.AddrPortFrom(ip, 81).String())
		if _, err := ask(a, netip.AddrPortFrom(ip, 81)); err != nil {
			t.Error(err)
		}
		if _, err := ask(a, netip.AddrPortFrom(ip, 80)); !refused(err) {
			t.Errorf("port of the Service: %v, want connection refused", err)
		}
	}
}

func TestL7GoesToTheProxyWithItsDestination(t *testing.T) {
	n := newNode(t)
	a, b, out := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b"), testenv.Pod(t, n.lab, "out")
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	var backends []netip.AddrPort
	for _, ip := range addrs(b) {
		echo(t, b, "b", netip.AddrPortFrom(ip, 8080).String())
		backends = append(backends, netip.AddrPortFrom(ip, 8080))
	}
	n.service(model.TCP, true, 0, backends...)
	for _, ip := range addrs(a) {
		line, err := ask(a, vip(ip))
		if err != nil || answer(line) != "b" {
			t.Errorf("%s without a proxy: %q %v, want the backend", vip(ip), line, err)
		}
	}
	pp := n.proxy(a, proxyListeners...)
	for _, ip := range addrs(a) {
		c, line, err := open(a, vip(ip))
		if err != nil {
			t.Fatal(err)
		}
		want := "proxy 127.0.0.1:15001 " + vip(ip).String()
		if ip.Is6() {
			want = "proxy [::1]:15001 " + vip(ip).String()
		}
		if line != want {
			t.Errorf("got %q, want %q", line, want)
		}
		if peer := c.RemoteAddr().String(); peer != vip(ip).String() {
			t.Errorf("getpeername says %s, want the Service %s", peer, vip(ip))
		}
		c.Close()
		e := n.waitEvent("closed event", func(e Event) bool { return e.Kind == EventClosed && e.Original == vip(ip) && e.Verdict == VerdictL7 })
		if e.Workload != "ns/a" || e.Received == 0 || e.Inbound || e.Remote.Port() != portHTTP {
			t.Errorf("event %+v", e)
		}
		if line, err := ask(out, vip(ip)); err != nil || answer(line) != "b" {
			t.Errorf("a pod outside of the mesh got %q %v, want the backend", line, err)
		}
	}
	pp.kill()
	if line, err := ask(a, vip(a.Address)); err != nil || answer(line) != "b" {
		t.Errorf("after the proxy's death: %q %v, want the backend", line, err)
	}
}

// TestDetectionGoesToTheProxyAndPast: a port of which nobody knows what it speaks has a listener of its own. A socket with the mark
// of Envoy's connections for what is not HTTP goes where it would go without routes.
func TestDetectionGoesToTheProxyAndPast(t *testing.T) {
	for _, mode := range []model.MTLSMode{model.MTLSDisabled, model.MTLSStrict} {
		t.Run(mode.String(), func(t *testing.T) {
			n := newNode(t)
			a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
			put(n, n.st.Workloads, workload(a, mode))
			put(n, n.st.Workloads, workload(b, mode, func(w *model.Workload) { w.Local = false }))
			var backends []netip.AddrPort
			for _, ip := range addrs(b) {
				echo(t, b, "b", netip.AddrPortFrom(ip, 8080).String())
				backends = append(backends, netip.AddrPortFrom(ip, 8080))
			}
			n.service(model.TCP, true, 0, backends...)
			s, _ := n.st.Services.Get(n.st.Snapshot(), "ns/svc")
			detect := *s
			detect.Ports = []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true, Detect: true}}
			put(n, n.st.Services, &detect)
			n.sync()
			n.proxy(a, proxyListeners...)
			for i, ip := range addrs(a) {
				line, err := ask(a, vip(ip))
				if want := ":15004 " + vip(ip).String(); err != nil || !strings.HasSuffix(line, want) {
					t.Errorf("%s: %q %v, want the proxy's%s", vip(ip), line, err, want)
				}
				line, err = askMarked(a, vip(ip), model.BytesMark)
				want := "b"
				if mode == model.MTLSStrict {
					want = ":15002 " + backends[i].String()
				}
				if err != nil || answer(line) != want && !strings.HasSuffix(line, want) {
					t.Errorf("%s with the mark: %q %v, want %q", vip(ip), line, err, want)
				}
			}
		})
	}
}

// askMarked returns what the first line is on a connection whose socket has a mark.
func askMarked(p *lab.Pod, to netip.AddrPort, mark int) (line string, err error) {
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
		return errors.Join(cerr, err)
	}}
	err = p.Do(func() error {
		c, err := d.Dial("tcp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		line, err = bufio.NewReader(c).ReadString('\n')
		return err
	})
	return strings.TrimSpace(line), err
}

func TestMutualTLSGoesToTheProxyOrNowhere(t *testing.T) {
	for _, tt := range []struct {
		name           string
		client, server model.MTLSMode
		proxy          string // answer with a proxy
		without        string // and without
	}{
		{"both permissive", model.MTLSPermissive, model.MTLSPermissive, "proxy", "b"},
		{"strict server", model.MTLSPermissive, model.MTLSStrict, "proxy", "refused"},
		{"strict client", model.MTLSStrict, model.MTLSPermissive, "proxy", "refused"},
		{"server without identity", model.MTLSStrict, model.MTLSDisabled, "b", "b"},
		{"client without identity", model.MTLSDisabled, model.MTLSPermissive, "b", "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
			put(n, n.st.Workloads, workload(a, tt.client))
			// The server is another node's, so that nothing is steered there.
			put(n, n.st.Workloads, workload(b, tt.server, func(w *model.Workload) { w.Local = false }))
			var backends []netip.AddrPort
			for _, ip := range addrs(b) {
				echo(t, b, "b", netip.AddrPortFrom(ip, 8080).String())
				backends = append(backends, netip.AddrPortFrom(ip, 8080))
			}
			n.service(model.TCP, false, 0, backends...)
			try := func(to, backend netip.AddrPort, want string) {
				t.Helper()
				c, line, err := open(a, to)
				got := answer(line)
				if refused(err) {
					got = "refused"
				} else if err != nil {
					t.Fatal(err)
				} else {
					if c.RemoteAddr().String() != to.String() {
						t.Errorf("getpeername says %s, want %s", c.RemoteAddr(), to)
					}
					if own := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); !slices.Contains(addrs(a), own) {
						t.Errorf("getsockname says %s, want the pod's address", own)
					}
					c.Close()
				}
				if got != want {
					t.Errorf("%s: %q (%v), want %s", to, line, err, want)
				}
				if want == "proxy" && !strings.HasSuffix(line, ":15002 "+backend.String()) {
					t.Errorf("%s: %q, want 15002 with the original destination %s", to, line, backend)
				}
			}
			for i, ip := range addrs(a) {
				try(vip(ip), backends[i], tt.without)
				try(backends[i], backends[i], tt.without)
			}
			n.proxy(a, proxyListeners...)
			for i, ip := range addrs(a) {
				try(vip(ip), backends[i], tt.proxy)
				try(backends[i], backends[i], tt.proxy)
			}
		})
	}
}

func TestMutualTLSWithOneselfStaysInTheKernel(t *testing.T) {
	n := newNode(t)
	a := testenv.Pod(t, n.lab, "a")
	put(n, n.st.Workloads, workload(a, model.MTLSStrict))
	n.sync()
	n.proxy(a, proxyListeners...)
	for _, ip := range append(addrs(a), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")) {
		echo(t, a, "self", netip.AddrPortFrom(ip, 8080).String())
		if line, err := ask(a, netip.AddrPortFrom(ip, 8080)); err != nil || answer(line) != "self" {
			t.Errorf("%s: %q %v", ip, line, err)
		}
	}
}

// An IPv6 socket that connects to ::ffff:a.b.c.d speaks IPv4.
func TestMappedAddresses(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSPermissive))
	put(n, n.st.Workloads, workload(b, model.MTLSPermissive, func(w *model.Workload) { w.Local = false }))
	n.proxy(a, proxyListeners...)
	backend := netip.AddrPortFrom(b.Address, 8080)
	for _, tt := range []struct {
		name string
		l7   bool
		want string
	}{
		{"l7", true, "proxy 127.0.0.1:15001 " + vip(a.Address).String()},
		{"mtls", false, "proxy 127.0.0.1:15002 " + backend.String()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.service(model.TCP, tt.l7, 0, backend)
			line, own, peer, err := mappedAsk(a, netip.AddrPortFrom(vip4, 80))
			if err != nil || line != tt.want {
				t.Errorf("got %q %v, want %q", line, err, tt.want)
			}
			if want := netip.AddrFrom16(a.Address.As16()); own != want {
				t.Errorf("getsockname says %s, want %s", own, want)
			}
			if want := netip.AddrPortFrom(netip.AddrFrom16(vip4.As16()), 80); peer != want {
				t.Errorf("getpeername says %s, want %s", peer, want)
			}
		})
	}
}

// TestOnePortForTwoProxies: the kernel may give two connections one local port if their ends differ, so while both are
// being opened the port alone does not tell where each was going.
func TestOnePortForTwoProxies(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSPermissive))
	put(n, n.st.Workloads, workload(b, model.MTLSPermissive, func(w *model.Workload) { w.Local = false }))
	pp := n.proxy(a, "deaf 127.0.0.1:15001", "127.0.0.1:15002")
	backend := netip.AddrPortFrom(b.Address, 8080)
	n.service(model.TCP, true, 0, backend)

	const port = 23456
	routed, err := connectFrom(a, port, netip.AddrPortFrom(vip4, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(routed)
	bytes, err := connectFrom(a, port, backend)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(bytes)
	if line, want := readLine(t, bytes), "proxy 127.0.0.1:15002 "+backend.String(); line != want {
		t.Errorf("the second connection: %q, want %q", line, want)
	}
	fmt.Fprintln(pp.in, "hear")
	if line, want := readLine(t, routed), "proxy 127.0.0.1:15001 "+netip.AddrPortFrom(vip4, 80).String(); line != want {
		t.Errorf("the first connection, accepted after the second: %q, want %q", line, want)
	}
}

// connectFrom begins to connect from a local port that others may have too.
func connectFrom(p *lab.Pod, port int, to netip.AddrPort) (fd int, err error) {
	err = p.Do(func() error {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		if err := errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Port: port}),
		); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
		if err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return errors.Join(err, unix.Close(fd))
		}
		return nil
	})
	return fd, err
}

// readLine waits up to 10 s for what comes first on a connection.
func readLine(t *testing.T, fd int) string {
	t.Helper()
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 200)
	got, err := unix.Read(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(buf[:got]))
}

// mappedAsk connects an AF_INET6 socket to an IPv4 address; package net would take AF_INET.
func mappedAsk(p *lab.Pod, to netip.AddrPort) (line string, own netip.Addr, peer netip.AddrPort, err error) {
	err = p.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}); err != nil {
			return err
		}
		sa, err := unix.Getpeername(fd)
		if err != nil {
			return err
		}
		name, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		own = netip.AddrFrom16(name.(*unix.SockaddrInet6).Addr)
		in6 := sa.(*unix.SockaddrInet6)
		peer = netip.AddrPortFrom(netip.AddrFrom16(in6.Addr), uint16(in6.Port))
		line, err = bufio.NewReader(f).ReadString('\n')
		line = strings.TrimSpace(line)
		return err
	})
	return line, own, peer, err
}

// A socket that is bound to a device is led to the proxy as others are: the strict rules hold for it too.
func TestBoundToDevice(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSStrict))
	put(n, n.st.Workloads, workload(b, model.MTLSStrict, func(w *model.Workload) { w.Local = false }))
	n.sync()
	ask := func(to netip.AddrPort) (line string, err error) {
		err = a.Do(func() error {
			d := net.Dialer{Timeout: 5 * time.Second, FallbackDelay: -1, Control: func(_, _ string, c syscall.RawConn) error {
				return errors.Join(c.Control(func(fd uintptr) { _ = unix.BindToDevice(int(fd), "eth0") }))
			}}
			c, err := d.Dial("tcp", to.String())
			if err != nil {
				return err
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			line, err = bufio.NewReader(c).ReadString('\n')
			return err
		})
		return line, err
	}
	for _, ip := range addrs(b) {
		if line, err := ask(netip.AddrPortFrom(ip, 8080)); !refused(err) {
			t.Errorf("%s without a proxy: %q %v", ip, line, err)
		}
	}
	n.proxy(a, proxyListeners...)
	for _, ip := range addrs(b) {
		to := netip.AddrPortFrom(ip, 8080)
		if line, err := ask(to); err != nil || !strings.HasSuffix(strings.TrimSpace(line), ":15002 "+to.String()) {
			t.Errorf("%s: %q %v", ip, line, err)
		}
	}
}

func TestClientAffinity(t *testing.T) {
	n := newNode(t)
	a := testenv.Pod(t, n.lab, "a")
	var backends []netip.AddrPort
	for _, name := range []string{"b", "c", "d", "e"} {
		p := testenv.Pod(t, n.lab, name)
		for _, ip := range addrs(p) {
			echo(t, p, name, netip.AddrPortFrom(ip, 8080).String())
			backends = append(backends, netip.AddrPortFrom(ip, 8080))
		}
	}
	n.service(model.TCP, false, time.Hour, backends...)
	for _, ip := range addrs(a) {
		first := ""
		for range 30 {
			line, err := ask(a, vip(ip))
			if err != nil {
				t.Fatal(err)
			}
			if first == "" {
				first = answer(line)
			}
			if answer(line) != first {
				t.Fatalf("%s: went to %s after %s", ip, line, first)
			}
		}
		// The endpoint goes: another one takes over, and is kept.
		var left []netip.AddrPort
		for i, b := range backends {
			if string("bcde"[i/2]) != first {
				left = append(left, b)
			}
		}
		n.service(model.TCP, false, time.Hour, left...)
		second := ""
		for range 30 {
			line, err := ask(a, vip(ip))
			if err != nil {
				t.Fatal(err)
			}
			if second == "" {
				second = answer(line)
			}
			if got := answer(line); got != second || got == first {
				t.Fatalf("%s: went to %s after %s; %s is gone", ip, got, second, first)
			}
		}
		n.service(model.TCP, false, time.Hour, backends...)
	}
	// The time runs out: the client may go elsewhere. An hour is not waited for: the entry is made old.
	n.forgetAffinity()
	seen := map[string]bool{}
	for range 200 {
		line, err := ask(a, vip(a.Address))
		if err != nil {
			t.Fatal(err)
		}
		seen[answer(line)] = true
		n.forgetAffinity()
	}
	if len(seen) < 2 {
		t.Error("the client kept its endpoint when the time had run out")
	}
}

// forgetAffinity makes every client's last use lie before the timeout.
func (n *node) forgetAffinity() {
	n.t.Helper()
	m := n.d.maps[weftMapAffinities]
	all, err := kernelTable[weftAffinityKey, weftAffinity]{m}.All()
	if err != nil {
		n.t.Fatal(err)
	}
	for k, v := range all {
		v.Used -= uint64(2 * time.Hour)
		if err := m.Put(&k, &v); err != nil {
			n.t.Fatal(err)
		}
	}
}

// Processes of the host get the Services, and no redirection.
func TestHostProcesses(t *testing.T) {
	n := newNode(t)
	b := testenv.Pod(t, n.lab, "b")
	var backends []netip.AddrPort
	for _, ip := range addrs(b) {
		echo(t, b, "b", netip.AddrPortFrom(ip, 8080).String())
		backends = append(backends, netip.AddrPortFrom(ip, 8080))
	}
	put(n, n.st.Workloads, workload(b, model.MTLSPermissive))
	n.service(model.TCP, true, 0, backends...)
	for _, ip := range addrs(b) {
		if line, err := fromHost(vip(ip)); err != nil || answer(line) != "b" {
			t.Errorf("%s: %q %v, want the backend", vip(ip), line, err)
		}
	}
}

// Envoy's own connections are never led to Envoy.
func TestProxyIsNotRedirected(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSStrict))
	put(n, n.st.Workloads, workload(b, model.MTLSPermissive, func(w *model.Workload) { w.Local = false }))
	n.sync()
	pp := n.proxy(a, proxyListeners...)
	for _, ip := range addrs(b) {
		echo(t, b, "b", netip.AddrPortFrom(ip, 8080).String())
		if line, err := pp.dial(t, netip.AddrPortFrom(ip, 8080), ""); answer(line) != "b" {
			t.Errorf("%s: %q %s, want the pod itself", ip, line, err)
		}
		if line, err := ask(a, netip.AddrPortFrom(ip, 8080)); answer(line) != "proxy" {
			t.Errorf("%s: the workload got %q %v, want the proxy", ip, line, err)
		}
	}
}

func TestMultipathTCP(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	echo(t, b, "b", netip.AddrPortFrom(b.Address, 8080).String())
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled))
	n.service(model.TCP, false, 0, netip.AddrPortFrom(b.Address, 8080))
	err := a.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: vip4.As4(), Port: 80}); err != nil {
			return err
		}
		line, err := bufio.NewReader(f).ReadString('\n')
		if answer(line) != "b" {
			t.Errorf("%q, want the backend", line)
		}
		return err
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT) {
		testenv.Missing(t, "needs a kernel with MPTCP, and net.mptcp.enabled=1")
	}
	if err != nil {
		t.Error(err)
	}
}
