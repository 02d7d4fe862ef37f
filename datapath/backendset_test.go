package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-mesh/weft/internal/model"
)

// manyPorts is a Service with TCP ports 1 to n.
func manyPorts(n int) *model.Service {
	s := &model.Service{Namespace: "ns", Name: "s", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}}
	for p := 1; p <= n; p++ {
		s.Ports = append(s.Ports, model.ServicePort{Port: uint16(p), Protocol: model.TCP})
	}
	return s
}

func backends(port uint16, n int, target uint16) *model.Endpoints {
	e := &model.Endpoints{Service: "ns/s", Port: port, Protocol: model.TCP}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		e.Backends = append(e.Backends, model.Endpoint{Address: netip.AddrPortFrom(a, target)})
	}
	return e
}

// TestPortsShareSlots: one Service must not take the table of all because it has many ports.
func TestPortsShareSlots(t *testing.T) {
	const ports, endpoints = 256, 20
	f := newFakeNode(t)
	f.kern.slots.limit = 1024
	write(f, f.st.Services, manyPorts(ports))
	for p := uint16(1); p <= ports; p++ {
		write(f, f.st.Endpoints, backends(p, endpoints, 8080+p%2))
	}
	if errs := f.apply(); len(errs) > 0 {
		t.Fatal(errs)
	}
	if n := len(f.kern.slots.entries); n != 2*endpoints {
		t.Errorf("%d slots for %d endpoints with 2 target ports", n, endpoints)
	}
	if n := len(f.serving("10.96.0.1:256", model.TCP)); n != endpoints {
		t.Errorf("the last port has %d backends", n)
	}
}

// TestPortsPartAndMeetAgain: after each write a port has all of its slots, and none leads to another port's target, also
// when writes fail and when another agent goes on.
func TestPortsPartAndMeetAgain(t *testing.T) {
	const ports = 6
	f := newFakeNode(t)
	write(f, f.st.Services, manyPorts(ports))
	allowed := map[uint16]map[string]bool{} // by port: the backends before and after a change
	look := func() {
		for p := uint16(1); p <= ports; p++ {
			for _, b := range f.serving(fmt.Sprintf("10.96.0.1:%d", p), model.TCP) {
				if !allowed[p][b] {
					t.Fatalf("port %d leads to %s, which it neither had nor has", p, b)
				}
			}
		}
	}
	f.kern.frontends.seen = func(map[weftFrontendKey]weftFrontend) { look() }
	f.kern.slots.seen = func(map[weftSlotKey]weftEndpoint) { look() }
	r := rand.New(rand.NewPCG(3, 4))
	flaky := errors.New("flaky")
	failing := false
	f.kern.frontends.fail = func(weftFrontendKey) error {
		if failing && r.IntN(3) == 0 {
			return flaky
		}
		return nil
	}
	f.kern.slots.fail = func(weftSlotKey) error { return f.kern.frontends.fail(weftFrontendKey{}) }
	for step := range 400 {
		want := map[uint16][]string{}
		for p := uint16(1); p <= ports; p++ {
			if step > 0 && r.IntN(2) == 0 {
				continue
			}
			e := backends(p, r.IntN(4), 8000+uint16(r.IntN(3)))
			write(f, f.st.Endpoints, e)
		}
		for e := range f.st.Endpoints.All(f.st.Snapshot()) {
			if allowed[e.Port] == nil {
				allowed[e.Port] = map[string]bool{}
			}
			want[e.Port] = []string{}
			for _, b := range e.Backends {
				allowed[e.Port][b.Address.String()] = true
				want[e.Port] = append(want[e.Port], b.Address.String())
			}
		}
		if step%7 == 6 {
			f.restart()
		}
		failing = step%3 == 2
		f.apply()
		if failing = false; step%3 == 2 {
			if step%2 == 0 {
				f.restart()
			}
			f.apply()
		}
		distinct := map[string]int{}
		for p := uint16(1); p <= ports; p++ {
			got := f.serving(fmt.Sprintf("10.96.0.1:%d", p), model.TCP)
			if d := cmp.Diff(want[p], got); d != "" {
				t.Fatalf("step %d, port %d: %s", step, p, d)
			}
			distinct[fmt.Sprint(got)] = len(got)
			clear(allowed[p])
			for _, b := range got {
				allowed[p][b] = true
			}
		}
		if step%3 != 0 {
			continue
		}
		if err := f.rec.services.prune(); err != nil {
			t.Fatal(err)
		}
		total := 0
		for _, n := range distinct {
			total += n
		}
		if n := len(f.kern.slots.entries); n != total {
			t.Fatalf("step %d: %d slots, want %d for %v", step, n, total, distinct)
		}
	}
}

// TestKernelTablesAreAsLargeAsTheModelSays: who divides the tables among namespaces does not see them.
func TestKernelTablesAreAsLargeAsTheModelSays(t *testing.T) {
	spec, err := loadWeft()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{
		weftMapFrontends: model.MaxFrontends, weftMapSlots: model.MaxSlots, weftMapMembers: model.MaxSlots,
		weftMapProbes: model.MaxProbes, weftMapProbeRequests: model.MaxProbes,
	} {
		if got := spec.Maps[name].MaxEntries; got != want {
			t.Errorf("map %s holds %d entries, want %d", name, got, want)
		}
	}
}

// TestWhatIsNotBalancedIsClosed: connections to a Service that the kernel does not know would go in the clear to backends with
// an identity. Its addresses are closed while it is over its budget, and while the kernel's table is full.
func TestWhatIsNotBalancedIsClosed(t *testing.T) {
	f := newFakeNode(t)
	s := manyPorts(1)
	e := backends(1, 1, 8080)
	s.Addresses, s.Refused = nil, s.Addresses
	closed := func(what string, want bool) {
		t.Helper()
		f.apply()
		if _, ok := f.kern.peers.entries[encodeAddr(netip.MustParseAddr("10.96.0.1"))]; ok != want {
			t.Errorf("%s: closed %v, want %v", what, ok, want)
		}
	}
	write(f, f.st.Services, s)
	write(f, f.st.Endpoints, e)
	closed("over its budget, nobody has an identity", false)
	e = backends(1, 1, 8080)
	e.Backends[0].Identity = "spiffe://td/ns/ns/sa/a"
	write(f, f.st.Endpoints, e)
	closed("over its budget", true)
	write(f, f.st.Services, manyPorts(1))
	closed("within its budget", false)
	if got := f.serving("10.96.0.1:1", model.TCP); len(got) != 1 {
		t.Errorf("within its budget it has %v", got)
	}
	f.kern.frontends.limit = 1
	write(f, f.st.Services, manyPorts(2))
	closed("the table is full", true)
	f.kern.frontends.limit = 0
	closed("the table has room again", false)
	w := f.st.Write(f.st.Services)
	f.st.Services.Delete(w, "ns/s")
	w.Commit()
	f.rec.reconcile(f.st.Snapshot(), map[object]struct{}{{model.SubjectService, "ns/s"}: {}})
	closed("deleted", false)
}

// TestClosedServiceOpensWhenItGoesUnseen: another agent finds what was closed.
func TestClosedServiceOpensWhenItGoesUnseen(t *testing.T) {
	f := newFakeNode(t)
	f.kern.peers.entries[encodeAddr(netip.MustParseAddr("10.96.0.1"))] = addressContested
	f.restart()
	f.rec.reconcile(f.st.Snapshot(), map[object]struct{}{leftovers: {}})
	if len(f.kern.peers.entries) > 0 {
		t.Errorf("left: %v", f.kern.peers.entries)
	}
}
