package xds

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// echoes is a Service with one endpoint on the loopback: it answers a datagram with its own name, and one that begins with "="
// with the same.
func echoes(t *testing.T, w *world, name string, at ...string) {
	t.Helper()
	e := &model.Endpoints{Service: "shop/" + name, Port: 53, Protocol: model.UDP}
	for _, a := range at {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(a), 0)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetReadBuffer(4 << 20)
		e.Backends = append(e.Backends, model.Endpoint{Address: netip.MustParseAddrPort(c.LocalAddr().String()), MTLS: model.MTLSStrict, Identity: identity("shop", name)})
		go func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				answer := []byte(name)
				if n > 0 && buf[0] == '=' {
					answer = buf[:n]
				}
				_, _ = c.WriteTo(answer, from)
			}
		}()
	}
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: name, Ports: []model.ServicePort{{Port: 53, Protocol: model.UDP}}})
	put(w, w.st.Endpoints, e)
}

// datagramClient is a connected socket: it takes answers from the address alone that it sends to.
func datagramClient(t *testing.T, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// exchange sends a datagram and waits for the answer. A datagram that Envoy drops has none.
func exchange(c *net.UDPConn, text string, wait time.Duration) (string, error) {
	if _, err := c.Write([]byte(text)); err != nil {
		return "", err
	}
	return received(c, wait)
}

func received(c *net.UDPConn, wait time.Duration) (string, error) {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// putDatagramGateway makes a Gateway whose UDP ports lead to a route each.
func putDatagramGateway(w *world, namespace string, addresses []netip.Addr, routes map[uint16]model.ObjectRef) {
	g := &model.Gateway{Namespace: namespace, Name: "gw", Addresses: addresses}
	for port, ref := range routes {
		g.Ports = append(g.Ports, model.GatewayPort{Port: port, UDP: true, Listeners: []model.GatewayListener{{Name: "udp", Streams: []model.GatewayStream{{Route: ref}}}}})
	}
	put(w, w.st.Gateways, g)
}

var bothLoopbacks = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

// freeUDPPort returns a port that is free at both loopbacks.
func freeUDPPort(t *testing.T) uint16 {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// TestUDPRoute: sessions are divided by weight, on addresses of both families, to backends of both. A backend that is not there, or has no endpoint, keeps its
// share, which gets no answer. A change of backends ends no session of those that stay.
func TestUDPRoute(t *testing.T) {
	w := newWorld(t, Config{})
	echoes(t, w, "v1", "127.0.0.1", "::1")
	echoes(t, w, "v2", "127.0.0.1")
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: "empty", Ports: []model.ServicePort{{Port: 53, Protocol: model.UDP}}})
	port, ref := freeUDPPort(t), streamRef("UDPRoute", "r")
	invalid := model.Backend{Namespace: "shop", Name: "invalid", Invalid: true, Weight: 2}
	udp := func(name string, weight uint32) model.Backend {
		return model.Backend{Namespace: "shop", Name: name, Port: 53, Weight: weight}
	}
	putStream(w, ref, udp("v1", 3), udp("v2", 1))
	putDatagramGateway(w, "shop", bothLoopbacks, map[uint16]model.ObjectRef{port: ref})
	w.envoy()
	v4, v6 := netip.AddrPortFrom(bothLoopbacks[0], port), netip.AddrPortFrom(bothLoopbacks[1], port)
	for _, at := range []netip.AddrPort{v4, v6} {
		until(t, "an answer from "+at.String(), func() error {
			_, err := exchange(datagramClient(t, at), "?", time.Second)
			return err
		})
	}
	w.noRejections()
	w.wantUpToDate(model.Subject{Kind: model.SubjectGateway, Name: "shop/gw"})

	// crowd makes clients at both addresses, each of which has asked once.
	crowd := func(n int) []*net.UDPConn {
		list := make([]*net.UDPConn, n)
		for i := range list {
			list[i] = datagramClient(t, []netip.AddrPort{v4, v6}[i%2])
			if _, err := list[i].Write([]byte("?")); err != nil {
				t.Fatal(err)
			}
		}
		return list
	}
	got := map[string]int{}
	for _, c := range crowd(400) {
		who, err := received(c, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		got[who]++
	}
	if got["v1"] < 280 || got["v1"] > 320 {
		t.Errorf("%v, want 3 to 1", got)
	}

	kept := datagramClient(t, v4)
	until(t, "a session with v2", func() error {
		_ = kept.Close()
		kept = datagramClient(t, v4)
		who, err := exchange(kept, "?", time.Second)
		if err == nil && who != "v2" {
			err = errors.New(who)
		}
		return err
	})
	putStream(w, ref, udp("v2", 1), udp("empty", 1), invalid)
	until(t, "a client without an answer", func() error {
		if who, err := exchange(datagramClient(t, v6), "?", time.Second); err == nil {
			return fmt.Errorf("%s answers", who)
		}
		return nil
	})
	clients, answered := crowd(40), map[*net.UDPConn]string{}
	until(t, "a quarter of the clients has an answer", func() error {
		for _, c := range clients {
			if who, err := received(c, time.Millisecond); err == nil {
				answered[c] = who
			}
		}
		if n := len(answered); n < 8 {
			return fmt.Errorf("%d of 40", n)
		}
		return nil
	})
	for _, c := range clients {
		if who, err := received(c, time.Millisecond); err == nil {
			answered[c] = who
		}
		if who, ok := answered[c]; ok && who != "v2" {
			t.Errorf("%s answers", who)
		}
	}
	if len(answered) > 12 {
		t.Errorf("%d of 40 clients have an answer, want a quarter", len(answered))
	}
	if who, err := exchange(kept, "?", 5*time.Second); err != nil || who != "v2" {
		t.Errorf("a session from before: %q, %v", who, err)
	}
	for _, size := range []int{1, 1500, 9000, 65_507} {
		text := "=" + strings.Repeat("x", size-1)
		if got, err := exchange(kept, text, 5*time.Second); err != nil || !bytes.Equal([]byte(got), []byte(text)) {
			t.Errorf("%d bytes come back as %d: %v", size, len(got), err)
		}
	}
	putStream(w, ref)
	until(t, "no backends", func() error {
		if who, err := exchange(kept, "?", time.Second); err == nil {
			return fmt.Errorf("%s answers", who)
		}
		return nil
	})
	w.noRejections()
}

// TestSessionsAreBounded: a port has its share of the node's sessions, whoever asks. More get no answer; another port of the
// Gateway, and those of another namespace, are not touched.
func TestSessionsAreBounded(t *testing.T) {
	const most = 20 // 80 / 2 namespaces / 2 ports
	w := newWorld(t, Config{Sessions: 80, testTimeouts: sessionsFor(time.Hour)})
	flooded, second, other := freeUDPPort(t), freeUDPPort(t), freeUDPPort(t)
	e := sessionWorld(t, w, map[string][]uint16{"shop": {flooded, second}, "other": {other}})
	flood := func() {
		for range 3 * most {
			if _, err := datagramClient(t, loopback(flooded)).Write([]byte("?")); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "a full port", func() error {
		flood()
		return e.sessions(most)
	})
	flood()
	for i, p := range []uint16{second, other} {
		if _, err := exchange(datagramClient(t, loopback(p)), "?", 5*time.Second); err != nil {
			t.Errorf("port %d beside one that is full: %v", p, err)
		}
		if err := e.sessions(most + 1 + i); err != nil {
			t.Error(err)
		}
	}
	w.noRejections()
}

// TestSessionsEnd: sessions without datagrams end, so that a port that was full serves others.
func TestSessionsEnd(t *testing.T) {
	w := newWorld(t, Config{Sessions: 4, testTimeouts: sessionsFor(time.Second)})
	port := freeUDPPort(t)
	e := sessionWorld(t, w, map[string][]uint16{"shop": {port}})
	until(t, "a full port", func() error {
		for range 8 {
			if _, err := datagramClient(t, loopback(port)).Write([]byte("?")); err != nil {
				t.Fatal(err)
			}
		}
		return e.sessions(2)
	})
	until(t, "the end of the sessions", func() error { return e.sessions(0) })
	if _, err := exchange(datagramClient(t, loopback(port)), "?", 5*time.Second); err != nil {
		t.Errorf("after the end of the sessions: %v", err)
	}
}

func loopback(port uint16) netip.AddrPort { return netip.AddrPortFrom(bothLoopbacks[0], port) }

func sessionsFor(d time.Duration) *timeouts {
	limits := defaultTimeouts
	limits.sessions = d
	return &limits
}

// sessionWorld is an Envoy with Gateways that have UDP ports, by namespace. It returns when Envoy has accepted them.
func sessionWorld(t *testing.T, w *world, ports map[string][]uint16) *envoy {
	t.Helper()
	echoes(t, w, "v1", "127.0.0.1")
	ref := streamRef("UDPRoute", "r")
	putStream(w, ref, model.Backend{Namespace: "shop", Name: "v1", Port: 53, Weight: 1})
	for namespace, list := range ports {
		routes := map[uint16]model.ObjectRef{}
		for _, p := range list {
			routes[p] = ref
		}
		putDatagramGateway(w, namespace, bothLoopbacks[:1], routes)
	}
	e := w.envoy()
	for namespace := range ports {
		w.wantUpToDate(model.Subject{Kind: model.SubjectGateway, Name: namespace + "/gw"})
	}
	return e
}

// sessions returns an error unless Envoy has as many sessions.
func (e *envoy) sessions(want int) error {
	const name = "udp.gateway.downstream_sess_active"
	stats, err := e.get("/stats?filter=" + name)
	if err == nil && strings.TrimSpace(stats) != fmt.Sprint(name, ": ", want) {
		err = fmt.Errorf("%q, want %d", stats, want)
	}
	return err
}

// TestSessionShares: all namespaces together have no more than the node, one no more than half, however many ports it has.
func TestSessionShares(t *testing.T) {
	w := newWorld(t, Config{Sessions: 1000})
	ref := streamRef("UDPRoute", "r")
	shares := func() map[string]float64 {
		m, ok := w.server.Build(TypeRuntime, model.RuntimeLimits)
		if !ok {
			t.Fatal("there are no limits")
		}
		sum := map[string]float64{}
		for key, v := range m.(*runtimev3.Runtime).GetLayer().GetFields() {
			if name, ok := strings.CutPrefix(key, "circuit_breakers."); ok {
				n, ok := parseDatagramsName(strings.TrimSuffix(name, ".default.max_connections"))
				if !ok {
					t.Fatalf("limit %s", key)
				}
				sum[n.namespace] += v.GetNumberValue()
			}
		}
		return sum
	}
	putDatagramGateway(w, "a", bothLoopbacks, map[uint16]model.ObjectRef{1: ref, 2: ref, 3: ref, 4: ref, 5: ref})
	if got := shares(); got["a"] != 500 {
		t.Errorf("%v, want 500", got)
	}
	putDatagramGateway(w, "b", bothLoopbacks, map[uint16]model.ObjectRef{1: ref})
	putDatagramGateway(w, "c", bothLoopbacks, map[uint16]model.ObjectRef{1: ref})
	putDatagramGateway(w, "d", bothLoopbacks, map[uint16]model.ObjectRef{1: ref})
	if got := shares(); got["a"] != 250 || got["b"] != 250 || got["a"]+got["b"]+got["c"]+got["d"] != 1000 {
		t.Errorf("%v, want a quarter each", got)
	}
}
