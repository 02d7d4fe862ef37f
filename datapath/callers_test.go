package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/testenv"
)

// divisionFrom is a Division of port 80 of ns/<service> for the callers of a namespace; "" for all.
func divisionFrom(caller, service string, backends ...netip.AddrPort) *model.Division {
	d := &model.Division{Service: "ns/" + service, Port: 80, CallerNamespace: caller}
	for _, b := range backends {
		d.Shares = append(d.Shares, model.Share{Backend: model.Backend{Weight: 1}, Endpoints: []model.Endpoint{{Address: b}}})
	}
	return d
}

func caller(namespace, name, addr string) *model.Workload {
	return &model.Workload{
		Namespace: namespace, Name: name, Local: true, NetNS: "/" + namespace + "-" + name, Addresses: []netip.Addr{netip.MustParseAddr(addr)},
	}
}

// from returns what a caller's connection to a frontend may meet: what is for the callers of its namespace, else what is for all.
func (f *fakeNode) from(w *model.Workload, front string) []string {
	f.t.Helper()
	ns, err := f.space.Open(w.NetNS)
	if err != nil {
		f.t.Fatal(err)
	}
	k := encodeFrontend(ap(front), model.TCP)
	if f.kern.frontends.entries[k].Flags&frontendCallers != 0 {
		own := k
		own.Pad = uint8(f.kern.pods.entries[ns.Cookie()] >> callerShift)
		if _, ok := f.kern.frontends.entries[own]; ok {
			k = own
		}
	}
	fe, out := f.kern.frontends.entries[k], []string{}
	for i := range fe.Count {
		out = append(out, decode(f.kern.slots.entries[weftSlotKey{Service: fe.Service, Slot: i}]).String())
	}
	slices.Sort(out)
	return out
}

// TestCallers: callers of a namespace meet what its route says, the others what the Service says; also while an agent starts anew,
// and until the route goes.
func TestCallers(t *testing.T) {
	f := newFakeNode(t)
	web, ops, other := caller("web", "a", "10.0.1.1"), caller("ops", "a", "10.0.1.2"), caller("other", "a", "10.0.1.3")
	fill := func() {
		write(f, f.st.Services, svc("s", "10.96.0.1", model.TCP, 0))
		write(f, f.st.Endpoints, eps("s", model.TCP, "10.0.0.1:80"))
		write(f, f.st.Workloads, web, ops, other)
		write(f, f.st.Divisions, divisionFrom("web", "s", ap("10.0.0.2:80")), divisionFrom("ops", "s", ap("10.0.0.3:80")), divisionFrom("nobody", "s", ap("10.0.0.4:80")))
	}
	check := func(what string, want ...string) {
		t.Helper()
		for i, w := range []*model.Workload{web, ops, other} {
			if got := f.from(w, "10.96.0.1:80"); len(got) != 1 || got[0] != want[i] {
				t.Errorf("%s: %s meets %v, want %s", what, w.Key(), got, want[i])
			}
		}
	}
	fill()
	if faults := f.apply(); len(faults) > 0 {
		t.Fatal(faults)
	}
	check("at first", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80")
	if n := len(f.kern.frontends.entries); n != 3 {
		t.Errorf("%d frontends: a namespace without a pod here has one", n)
	}

	// The next agent knows nothing yet, and then all. At no moment does a caller meet anything else.
	watch := func(map[uint64]uint32) { check("while the agent starts", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80") }
	f.st = state.New(state.NewDB())
	f.restart()
	f.kern.pods.seen = watch
	f.apply()
	write(f, f.st.Workloads, web, ops, other)
	f.apply()
	fill()
	f.apply()
	snap := f.st.Snapshot()
	todo := f.rec.everything(snap)
	todo[leftovers] = struct{}{}
	f.rec.reconcile(snap, todo)
	f.kern.pods.seen = nil
	check("after the start", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80")
	if n := len(f.kern.frontends.entries); n != 3 {
		t.Errorf("%d frontends are left", n)
	}

	// A pod that comes has the number, and a route that goes leaves nothing.
	second := caller("web", "b", "10.0.1.4")
	write(f, f.st.Workloads, second)
	f.apply()
	if got := f.from(second, "10.96.0.1:80"); len(got) != 1 || got[0] != "10.0.0.2:80" {
		t.Errorf("a new pod meets %v", got)
	}
	f.rec.synced = true
	for _, ns := range []string{"web", "ops", "nobody"} {
		removeRow(f, f.st.Divisions, model.DivisionKey("ns/s/80", ns))
	}
	f.apply()
	check("without routes", "10.0.0.1:80", "10.0.0.1:80", "10.0.0.1:80")
	for cookie, flags := range f.kern.pods.entries {
		if flags>>callerShift != 0 {
			t.Errorf("pod %d keeps the number %d", cookie, flags>>callerShift)
		}
	}
}

// TestCallersOfMany: there are 255 numbers. What has none is reported, and a number that is free is given again.
func TestCallersOfMany(t *testing.T) {
	f := newFakeNode(t)
	f.rec.synced = true
	write(f, f.st.Services, svc("s", "10.96.0.1", model.TCP, 0))
	for i := range 256 {
		ns := fmt.Sprintf("ns%03d", i)
		write(f, f.st.Workloads, caller(ns, "a", fmt.Sprintf("10.0.%d.%d", 1+i/200, 1+i%200)))
		write(f, f.st.Divisions, divisionFrom(ns, "s", ap("10.0.0.2:80")))
	}
	faults := f.apply()
	if why := faults["service/ns/s"]; len(faults) != 1 || !strings.Contains(why, "ns255") {
		t.Fatalf("%v", faults)
	}
	removeRow(f, f.st.Divisions, model.DivisionKey("ns/s/80", "ns007"))
	f.apply()
	if faults := f.apply(); len(faults) > 0 {
		t.Errorf("%v", faults)
	}
}

// TestCallersInTheKernel: the programs tell callers by their namespace.
func TestCallersInTheKernel(t *testing.T) {
	n := newNode(t)
	a, b, c, d := testenv.Pod(t, n.lab, "a"), testenv.Pod(t, n.lab, "b"), testenv.Pod(t, n.lab, "c"), testenv.Pod(t, n.lab, "d")
	var own, all []netip.AddrPort
	for _, ip := range addrs(c) {
		echo(t, c, "c", netip.AddrPortFrom(ip, 8080).String())
		all = append(all, netip.AddrPortFrom(ip, 8080))
	}
	for _, ip := range addrs(d) {
		echo(t, d, "d", netip.AddrPortFrom(ip, 8080).String())
		own = append(own, netip.AddrPortFrom(ip, 8080))
	}
	put(n, n.st.Workloads, workload(a, model.MTLSDisabled, func(w *model.Workload) { w.Namespace = "web" }))
	put(n, n.st.Workloads, workload(b, model.MTLSDisabled))
	n.service(model.TCP, false, 0, all...)
	put(n, n.st.Divisions, &model.Division{
		Service: "ns/svc", Port: 80, CallerNamespace: "web",
		Shares: []model.Share{{Backend: model.Backend{Weight: 1}, Endpoints: []model.Endpoint{{Address: own[0]}, {Address: own[1]}}}},
	})
	n.sync()
	for caller, want := range map[*lab.Pod]string{a: "d", b: "c"} {
		for _, ip := range addrs(caller) {
			eventually(t, fmt.Sprintf("%s of %s is answered by %s", caller.Name, ip, want), func() bool {
				line, err := ask(caller, vip(ip))
				return err == nil && answer(line) == want
			})
			for range 20 {
				if line, err := ask(caller, vip(ip)); err != nil || answer(line) != want {
					t.Fatalf("%s: %q, %v; want %s", caller.Name, line, err, want)
				}
			}
		}
	}
}

func removeRow[T any](f *fakeNode, table *state.Table[T], key string) {
	w := f.st.Write(table)
	table.Delete(w, key)
	w.Commit()
}
