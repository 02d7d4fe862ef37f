package datapath

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

func policed(w *model.Workload) { w.Policy = &model.Policy{Names: []string{"ns/p"}} }

// probed declares probes that connect and send nothing.
func probed(ports ...uint16) func(*model.Workload) {
	return func(w *model.Workload) {
		for _, p := range ports {
			w.Probes = append(w.Probes, model.Probe{Port: p, Kind: model.ProbeTCP})
		}
	}
}

// fromHost asks from the host's namespace, with the node's address.
func fromHost(to netip.AddrPort) (string, error) {
	c, err := net.DialTimeout("tcp", to.String(), 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 100)
	n, err := c.Read(b)
	return strings.TrimSpace(string(b[:n])), err
}

// TestInbound goes through the order of decisions in docs/design/connections.md, for both families.
func TestInbound(t *testing.T) {
	const (
		app, probe, hbone = 8080, 8081, portHBONE
		pass, deny, steer = "app", "refused", "proxy"
	)
	type want struct{ peer, probePeer, node, nodeProbe, hbone, own string }
	for _, tt := range []struct {
		name   string
		mode   model.MTLSMode
		change []func(*model.Workload)
		proxy  bool
		want   want
	}{
		{"disabled", model.MTLSDisabled, nil, true, want{pass, pass, pass, pass, pass, pass}},
		{"permissive", model.MTLSPermissive, nil, true, want{pass, pass, pass, pass, pass, pass}},
		{"strict", model.MTLSStrict, []func(*model.Workload){probed(probe)}, true, want{deny, deny, deny, pass, deny, pass}},
		{"strict without proxy", model.MTLSStrict, []func(*model.Workload){probed(probe)}, false, want{deny, deny, deny, pass, deny, pass}},
		{"strict without probes", model.MTLSStrict, nil, true, want{deny, deny, deny, deny, deny, pass}},
		{"strict and policed", model.MTLSStrict, []func(*model.Workload){policed, probed(probe)}, true, want{deny, deny, deny, pass, deny, pass}},
		{"policed", model.MTLSPermissive, []func(*model.Workload){policed, probed(probe)}, true, want{steer, steer, steer, pass, steer, pass}},
		{"policed without proxy", model.MTLSPermissive, []func(*model.Workload){policed, probed(probe)}, false, want{deny, deny, deny, pass, deny, pass}},
		{"policed without identity", model.MTLSDisabled, []func(*model.Workload){policed}, true, want{steer, steer, steer, steer, steer, pass}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
			put(n, n.st.Workloads, workload(b, tt.mode, tt.change...))
			n.sync()
			if tt.proxy {
				n.proxy(b, inbound15006(b)...)
			}
			check := func(what string, to netip.AddrPort, got string, err error, want string) {
				t.Helper()
				answered := answer(got)
				if refused(err) {
					answered = deny
				} else if err != nil {
					t.Errorf("%s to %s: %v", what, to, err)
					return
				}
				if answered != want {
					t.Errorf("%s to %s: %q (%v), want %s", what, to, got, err, want)
				}
				if want == steer && !strings.HasSuffix(got, " "+to.String()) {
					t.Errorf("%s: the proxy was told %q, want %s", what, got, to)
				}
			}
			for _, ip := range addrs(b) {
				for _, port := range []uint16{app, probe, hbone} {
					echo(t, b, "app", netip.AddrPortFrom(ip, port).String())
				}
				at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(ip, port) }
				line, err := ask(a, at(app))
				check("peer", at(app), line, err, tt.want.peer)
				line, err = ask(a, at(probe))
				check("peer to the probe port", at(probe), line, err, tt.want.probePeer)
				line, err = fromHost(at(app))
				check("node", at(app), line, err, tt.want.node)
				line, err = fromHost(at(probe))
				check("node's probe", at(probe), line, err, tt.want.nodeProbe)
				line, err = ask(a, at(hbone))
				check("an application on 15008", at(hbone), line, err, tt.want.hbone)
				line, err = ask(b, at(app))
				check("the workload itself", at(app), line, err, tt.want.own)
			}
			for _, lo := range []string{"127.0.0.1:8090", "[::1]:8090"} {
				echo(t, b, "app", lo)
				line, err := ask(b, netip.MustParseAddrPort(lo))
				check("loopback", netip.MustParseAddrPort(lo), line, err, pass)
			}
		})
	}
}

// TestNodeGetsAnAddress: a CNI plugin makes its bridge with the node's first pod, and probes come from there.
func TestNodeGetsAnAddress(t *testing.T) {
	n := newNode(t)
	b := testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(b, model.MTLSStrict, probed(8081)))
	n.sync()
	at := netip.AddrPortFrom(b.Address, 8081)
	echo(t, b, "app", at.String())
	link, err := netlink.LinkByName(n.lab.Bridge())
	if err != nil {
		t.Fatal(err)
	}
	four := n.lab.Gateway.As4()
	own := netip.AddrFrom4([4]byte{four[0], four[1], four[2], 250})
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new address may probe", func() bool {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: own.AsSlice()}, Timeout: 5 * time.Second}
		c, err := d.Dial("tcp", at.String())
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

func TestRefusedInboundIsReported(t *testing.T) {
	n := newNode(t)
	a, b, c := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b"), testenv.Pod(t, n.lab, "c")
	put(n, n.st.Workloads, workload(b, model.MTLSStrict))
	put(n, n.st.Workloads, workload(c, model.MTLSPermissive, policed))
	n.sync()
	for p, reason := range map[*lab.Pod]Reason{b: ReasonPlaintext, c: ReasonNoPolicyPort} {
		to := netip.AddrPortFrom(p.Address, 8080)
		if _, err := ask(a, to); !refused(err) {
			t.Fatal(err)
		}
		e := n.waitEvent("refused event", func(e Event) bool { return e.Kind == EventRefused && e.Local == to })
		if e.Reason != reason || !e.Inbound || e.Workload != "ns/"+p.Name || e.Remote.Addr() != a.Address {
			t.Errorf("event %+v, want reason %v", e, reason)
		}
	}
}

func TestOnlyTheProxyOfThePodMayConnectInStrictMode(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(a, model.MTLSPermissive))
	put(n, n.st.Workloads, workload(b, model.MTLSStrict))
	n.sync()
	own, other := n.proxy(b), n.proxy(a)
	for i, ip := range addrs(b) {
		echo(t, b, "app", netip.AddrPortFrom(ip, 8080).String())
		to := netip.AddrPortFrom(ip, 8080)
		if line, _ := own.dial(t, to, ""); answer(line) != "app" {
			t.Errorf("the pod's proxy did not reach the app at %s: %q", to, line)
		}
		// With the client's address, as original_src does; the answers come back by the mark.
		line, local := own.dial(t, to, addrs(a)[i].String())
		if answer(line) != "app" || !strings.Contains(line, addrs(a)[i].String()) {
			t.Errorf("with the client's address: %q %s, want the app to see %s", line, local, addrs(a)[i])
		}
		if _, err := other.dial(t, to, ""); !strings.Contains(err, "refused") {
			t.Errorf("another pod's proxy reached the app in the clear: %q", err)
		}
	}
	// The same addresses as a connection of the pod's own proxy, from another namespace: the entry there is not ours.
	flows, err := kernelTable[weftFlow, uint32]{n.d.maps[weftMapFromProxy]}.All()
	if err != nil {
		t.Fatal(err)
	}
	for f := range flows {
		if n.name(f.Netns) != "ns/b" {
			t.Errorf("from_proxy holds %s -> %s of %q", decode(f.From), decode(f.To), n.name(f.Netns))
		}
	}
	if len(flows) == 0 {
		t.Error("from_proxy holds nothing of the live connections")
	}
	own.kill()
	other.kill()
	eventually(t, "from_proxy is empty when the connections are closed", func() bool {
		flows, err := kernelTable[weftFlow, uint32]{n.d.maps[weftMapFromProxy]}.All()
		return err == nil && len(flows) == 0
	})
}

func (n *node) name(cookie uint64) string {
	names := n.d.names.Load()
	return (*names)[cookie]
}

// A pod that listens on 15006 itself is no proxy.
func TestOnlyTheProxysListenerIsSteeredTo(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(b, model.MTLSPermissive, policed))
	n.sync()
	for _, ip := range addrs(b) {
		echo(t, b, "impostor", netip.AddrPortFrom(ip, portIn).String())
		echo(t, b, "app", netip.AddrPortFrom(ip, 8080).String())
		if line, err := ask(a, netip.AddrPortFrom(ip, 8080)); !refused(err) {
			t.Errorf("%q %v, want connection refused", line, err)
		}
	}
}

// Two namespaces with the same address: what one's proxy and policy do is nothing to the other.
func TestOverlappingAddresses(t *testing.T) {
	n := newNode(t)
	a, b, c := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b"), testenv.Pod(t, n.lab, "c")
	put(n, n.st.Workloads, workload(a, model.MTLSPermissive, policed))
	put(n, n.st.Workloads, workload(b, model.MTLSPermissive, policed, func(w *model.Workload) { w.Addresses = addrs(a) }))
	n.sync()
	pa := n.proxy(a, inbound15006(a)...)
	_ = pa
	echo(t, a, "app", netip.AddrPortFrom(a.Address, 8080).String())
	echo(t, b, "app", netip.AddrPortFrom(b.Address, 8080).String())
	if line, err := ask(c, netip.AddrPortFrom(a.Address, 8080)); answer(line) != "proxy" {
		t.Errorf("%q %v, want the proxy", line, err)
	}
	if line, err := ask(c, netip.AddrPortFrom(b.Address, 8080)); !refused(err) {
		t.Errorf("%q %v: b has no proxy, and a's is not b's", line, err)
	}
}

// TestHBONEIsTheProxysAlone: the kernel passes port 15008 to Envoy's socket only, and only where there is an identity.
func TestHBONEIsTheProxysAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		mode   model.MTLSMode
		change []func(*model.Workload)
		want   string
	}{
		"permissive":               {model.MTLSPermissive, nil, "proxy"},
		"permissive and policed":   {model.MTLSPermissive, []func(*model.Workload){policed}, "proxy"},
		"strict":                   {model.MTLSStrict, nil, "proxy"},
		"strict and policed":       {model.MTLSStrict, []func(*model.Workload){policed}, "proxy"},
		"strict, without identity": {model.MTLSStrict, []func(*model.Workload){func(w *model.Workload) { w.Identity = "" }}, "refused"},
		"policed, disabled":        {model.MTLSDisabled, []func(*model.Workload){policed}, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
			put(n, n.st.Workloads, workload(b, tt.mode, tt.change...))
			n.sync()
			proxy := n.proxy(b, hbone(b)...)
			for _, ip := range addrs(b) {
				to := netip.AddrPortFrom(ip, portHBONE)
				if line, err := ask(a, to); answer(line) != tt.want && !(tt.want == "refused" && refused(err)) {
					t.Errorf("%s: %q %v, want %s", to, line, err, tt.want)
				}
			}
			proxy.kill()
			if tt.mode != model.MTLSStrict {
				return
			}
			for _, ip := range addrs(b) {
				to := netip.AddrPortFrom(ip, portHBONE)
				echo(t, b, "app", to.String())
				if line, err := ask(a, to); !refused(err) {
					t.Errorf("%s: an application of a strict pod answered in the clear: %q %v", to, line, err)
				}
			}
		})
	}
}

func hbone(p *lab.Pod) []string {
	return []string{netip.AddrPortFrom(p.Address, portHBONE).String(), netip.AddrPortFrom(p.Address6, portHBONE).String()}
}

// TestListenersAreFoundAgain: the map of a version before has another layout, and Envoy does not listen again.
func TestListenersAreFoundAgain(t *testing.T) {
	n := newNode(t)
	a, b, c := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b"), testenv.Pod(t, n.lab, "c")
	put(n, n.st.Workloads, workload(b, model.MTLSStrict))
	put(n, n.st.Workloads, workload(c, model.MTLSPermissive, policed))
	n.sync()
	n.proxy(b, hbone(b)...)
	n.proxy(c, inbound15006(c)...)
	echo(t, c, "impostor", netip.AddrPortFrom(c.Address, portHBONE).String()) // not Envoy's
	n.end()
	pins, err := filepath.Glob(filepath.Join(n.cfg.PinDir, mapDir, weftMapListeners+"-*"))
	if err != nil || len(pins) != 1 {
		t.Fatal(pins, err)
	}
	if err := os.Remove(pins[0]); err != nil {
		t.Fatal(err)
	}
	n.start()
	for _, p := range []*lab.Pod{b, c} {
		for _, ip := range addrs(p) {
			to := netip.AddrPortFrom(ip, portHBONE)
			if line, err := ask(a, to); answer(line) != "proxy" {
				t.Errorf("%s: %q %v, want the proxy", to, line, err)
			}
		}
	}
}

func TestListenerOutlivesItsWorkers(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Workloads, workload(b, model.MTLSPermissive, policed))
	n.sync()
	to := netip.AddrPortFrom(b.Address, 8080)
	old := n.proxy(b, inbound15006(b)...)
	second := n.proxy(b, inbound15006(b)...)
	for what, kill := range map[string]func(){"both": func() {}, "the old one gone": old.kill} {
		kill()
		if line, err := ask(a, to); answer(line) != "proxy" {
			t.Errorf("%s: %q %v, want the proxy", what, line, err)
		}
	}
	second.kill()
	if line, err := ask(a, to); !refused(err) {
		t.Errorf("without a proxy: %q %v, want refused", line, err)
	}
	n.proxy(b, inbound15006(b)...)
	if line, err := ask(a, to); answer(line) != "proxy" {
		t.Errorf("started again: %q %v, want the proxy", line, err)
	}
}

// broken waits until the peer's connection is reset.
func broken(t *testing.T, c net.Conn) bool {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	_, err := c.Read(make([]byte, 1))
	return err != nil && !strings.Contains(err.Error(), "timeout")
}

func alive(t *testing.T, c net.Conn) bool {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	_, err := c.Read(make([]byte, 1))
	return err == nil
}

func TestLiveConnectionsThatAreForbiddenEnd(t *testing.T) {
	for name, change := range map[string]func(*model.Workload){
		"strict":       func(w *model.Workload) { w.MTLS = model.MTLSStrict },
		"first policy": policed,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
			put(n, n.st.Workloads, workload(b, model.MTLSPermissive, probed(8081)))
			n.sync()
			pp := n.proxy(b)
			var plain, kept []net.Conn
			for _, ip := range addrs(b) {
				for _, port := range []uint16{8080, 8081, portHBONE} {
					echo(t, b, "app", netip.AddrPortFrom(ip, port).String())
				}
				plain = append(plain, mustOpen(t, a, ip, 8080), mustOpen(t, a, ip, 8081))
				kept = append(kept, mustOpen(t, a, ip, portHBONE), mustOpen(t, b, ip, 8080))
				c, err := net.Dial("tcp", netip.AddrPortFrom(ip, 8081).String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				_, _ = c.Read(make([]byte, 100))
				plain = append(plain, c) // from when nobody looked who the node's processes are
				if line, _ := pp.dial(t, netip.AddrPortFrom(ip, 8080), ""); answer(line) != "app" {
					t.Fatal("the proxy does not reach the app")
				}
			}
			// An outbound connection of the workload stays too.
			echo(t, a, "a", netip.AddrPortFrom(a.Address, 8080).String())
			kept = append(kept, mustOpen(t, b, a.Address, 8080))
			put(n, n.st.Workloads, workload(b, model.MTLSPermissive, probed(8081), change))
			n.sync()
			for _, c := range plain {
				if !broken(t, c) {
					t.Errorf("%s - %s lives on", c.LocalAddr(), c.RemoteAddr())
				}
			}
			for _, c := range kept {
				if !alive(t, c) {
					t.Errorf("%s - %s was closed", c.LocalAddr(), c.RemoteAddr())
				}
			}
			if line, _ := pp.dial(t, netip.AddrPortFrom(b.Address, 8080), ""); answer(line) != "app" {
				t.Error("the proxy does not reach the app any more")
			}
			got, err := n.d.CloseConnections(t.Context(), "ns/b", Authenticated, nil)
			if err != nil || got != 2 {
				t.Errorf("closed %d connections on 15008 (%v), want 2", got, err)
			}
			if !broken(t, kept[0]) {
				t.Error("a connection to 15008 lives on")
			}
			if _, err := n.d.CloseConnections(t.Context(), "ns/nobody", Inbound, nil); err == nil {
				t.Error("no error for a workload that is not there")
			}
		})
	}
}

func mustOpen(t *testing.T, p *lab.Pod, ip netip.Addr, port uint16) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := p.Dial(ctx, "tcp", netip.AddrPortFrom(ip, port).String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestPlaintextEndsWithoutAListener: a server that does not listen any more keeps the connections that it accepted. The
// pod's own connections, which nobody listens for either, live on.
func TestPlaintextEndsWithoutAListener(t *testing.T) {
	n := newNode(t)
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	echo(t, a, "client", netip.AddrPortFrom(a.Address, 9000).String())
	put(n, n.st.Workloads, workload(b, model.MTLSPermissive))
	n.sync()
	for _, ip := range []netip.Addr{b.Address, b.Address6} {
		l, err := b.Listen("tcp", netip.AddrPortFrom(ip, 8080).String())
		if err != nil {
			t.Fatal(err)
		}
		in, err := a.Dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		l.Close()
		out, _, err := open(b, netip.AddrPortFrom(a.Address, 9000))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		put(n, n.st.Workloads, workload(b, model.MTLSStrict))
		n.sync()
		_ = in.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := in.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: the connection in the clear lives on: %v", ip, err)
		}
		if _, err := out.Write([]byte("x")); err != nil {
			t.Errorf("%s: the pod's own connection: %v", ip, err)
		}
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
			t.Errorf("%s: the pod's own connection: %v", ip, err)
		}
		put(n, n.st.Workloads, workload(b, model.MTLSPermissive))
		n.sync()
	}
}

// TestPlaintextEndsWhenAPodJoinsStrict: nobody enforced the mode before, or the agent was not there when it changed.
func TestPlaintextEndsWhenAPodJoinsStrict(t *testing.T) {
	for _, before := range []string{"outside the mesh", "disabled"} {
		t.Run(before, func(t *testing.T) {
			n := newNode(t)
			a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
			to := netip.AddrPortFrom(b.Address, 8080)
			echo(t, b, "app", to.String())
			if before == "disabled" {
				put(n, n.st.Workloads, workload(b, model.MTLSDisabled))
				n.sync()
			}
			c, _, err := open(a, to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			n.end()
			put(n, n.st.Workloads, workload(b, model.MTLSStrict))
			n.start()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the connection in the clear lives on: %v", err)
			}
		})
	}
}

// TestClosingSparesConnectionsInsideThePod closes connections in the clear again and again while others are made inside of
// the pod, as Envoy makes them to the workload.
func TestClosingSparesConnectionsInsideThePod(t *testing.T) {
	n := newNode(t)
	b := testenv.Pod(t, n.lab, "b")
	to := netip.AddrPortFrom(b.Address, 8080)
	echo(t, b, "app", to.String())
	put(n, n.st.Workloads, workload(b, model.MTLSStrict))
	n.sync()
	const clients, connections = 8, 500
	var asking sync.WaitGroup
	for range clients {
		asking.Go(func() {
			for range connections {
				if _, err := ask(b, to); err != nil {
					t.Errorf("a connection inside of the pod: %v", err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { asking.Wait(); close(done) }()
	for closed := 0; ; {
		count, err := n.d.CloseConnections(t.Context(), "ns/b", Plaintext, nil)
		if err != nil {
			t.Error(err)
		}
		closed += count
		select {
		case <-done:
			if closed > 0 {
				t.Errorf("%d connections were closed", closed)
			}
			return
		default:
		}
	}
}
