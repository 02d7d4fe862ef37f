package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// inspecting is a policy with a rule for requests on ports, all if there are none, and one for bytes on 5432.
func inspecting(ports ...uint16) *model.Policy {
	return &model.Policy{Rules: []model.PolicyRule{
		{Ports: ports, HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}}, {Ports: []uint16{5432}},
	}}
}

func portsFrom8080(n int) (out []uint16) {
	for i := range n {
		out = append(out, uint16(8080+i))
	}
	return out
}

// TestInspectedPorts: a policy that looks at requests on a port leads connections to that port to Envoy, and no others.
func TestInspectedPorts(t *testing.T) {
	n := newNode(t)
	n.end()
	n.cfg.Tunnel = true
	n.start()
	a, b := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b")
	put(n, n.st.Nodes, &model.Node{Name: "far", Accepts: []model.Transport{model.TransportHBONE, model.TransportTunnel}})
	put(n, n.st.Workloads, workload(a, model.MTLSStrict))
	n.proxy(a, append(slices.Clone(proxyListeners), "127.0.0.1:15003", "[::1]:15003")...)
	var backends []netip.AddrPort
	for _, ip := range addrs(b) {
		backends = append(backends, netip.AddrPortFrom(ip, 8080))
	}
	n.service(model.TCP, false, 0, backends...)
	const envoy, tunnel = "15002", "15003"
	for _, tt := range []struct {
		name       string
		policy     *model.Policy
		http, data string // who takes connections to ports 8080 and 5432
	}{
		{"no policy", nil, tunnel, tunnel},
		{"requests on a port", inspecting(8080), envoy, tunnel},
		{"requests on another port", inspecting(9090), tunnel, tunnel},
		{"requests on all ports", inspecting(), envoy, envoy},
		{"requests on that port again", inspecting(8080, 9090), envoy, tunnel},
		{"requests on as many ports as are told apart", inspecting(portsFrom8080(64)...), envoy, tunnel},
		{"requests on more", inspecting(portsFrom8080(65)...), envoy, envoy},
		{"no policy again", nil, tunnel, tunnel},
	} {
		put(n, n.st.Workloads, workload(b, model.MTLSStrict, func(w *model.Workload) { w.Local, w.Node, w.Policy = false, "far", tt.policy }))
		n.sync()
		for i, ip := range addrs(a) {
			for _, try := range []struct {
				to, dest netip.AddrPort
				want     string
			}{
				{vip(ip), backends[i], tt.http}, {backends[i], backends[i], tt.http},
				{netip.AddrPortFrom(backends[i].Addr(), 5432), netip.AddrPortFrom(backends[i].Addr(), 5432), tt.data},
			} {
				line, err := ask(a, try.to)
				if err != nil || !strings.HasSuffix(line, fmt.Sprintf(":%s %s", try.want, try.dest)) {
					t.Errorf("%s: %s: %q (%v), want %s with the destination %s", tt.name, try.to, line, err, try.want, try.dest)
				}
			}
		}
	}
}

// TestInspectedPortsAreKnownFirst: at no moment is a port taken for one that Envoy need not see. Where the map has no room, Envoy
// takes all ports.
func TestInspectedPortsAreKnownFirst(t *testing.T) {
	f := newFakeNode(t)
	f.tunnel = true
	f.restart()
	address := netip.MustParseAddr("10.0.0.9")
	endpoint := encode(netip.AddrPortFrom(address, 8080))
	apply := func(p *model.Policy) (flags uint32) {
		t.Helper()
		w := &model.Workload{Namespace: "ns", Name: "w", Node: "b", Addresses: []netip.Addr{address}, Identity: "spiffe://td/x", Policy: p}
		write(f, f.st.Workloads, w)
		snap := f.st.Snapshot()
		f.rec.reconcile(snap, map[object]struct{}{{model.SubjectWorkload, w.Key()}: {}})
		return f.kern.peers.entries[encodeAddr(address)] & (peerByEnvoy | peerSomePorts)
	}
	write(f, f.st.Nodes, &model.Node{Name: "b", Accepts: []model.Transport{model.TransportTunnel}})
	f.kern.peers.seen = func(peers map[weftAddress]uint32) {
		if peers[encodeAddr(address)]&peerSomePorts != 0 && f.kern.inspected.entries[endpoint] == 0 {
			t.Error("the flag is there before the port")
		}
	}
	f.kern.inspected.seen = func(ports map[weftEndpoint]uint32) {
		if f.kern.peers.entries[encodeAddr(address)]&peerSomePorts != 0 && ports[endpoint] == 0 {
			t.Error("the port goes before the flag")
		}
	}
	if got := apply(inspecting(8080)); got != peerByEnvoy|peerSomePorts {
		t.Errorf("flags %#x", got)
	}
	if got := apply(nil); got != 0 || len(f.kern.inspected.entries) != 0 {
		t.Errorf("flags %#x and ports %v without a policy", got, f.kern.inspected.entries)
	}
	f.kern.inspected.failPut = fullError(1)
	if got := apply(inspecting(8080)); got != peerByEnvoy {
		t.Errorf("flags %#x while the map is full", got)
	}
	if len(f.faults()) == 0 {
		t.Error("nobody hears that the map is full")
	}
	f.kern.inspected.failPut = nil
	if got := apply(inspecting(8080)); got != peerByEnvoy|peerSomePorts {
		t.Errorf("flags %#x when it has room again", got)
	}
	f.restart() // of the agent; the workload went meanwhile
	w := f.st.Write(f.st.Workloads)
	f.st.Workloads.Delete(w, "ns/w")
	w.Commit()
	snap := f.st.Snapshot()
	f.rec.reconcile(snap, map[object]struct{}{leftovers: {}})
	if len(f.kern.inspected.entries) != 0 {
		t.Errorf("ports %v of a workload that is gone", f.kern.inspected.entries)
	}
}
