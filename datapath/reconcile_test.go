package datapath

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// fakeSpace has the namespaces whose paths do not contain "missing".
type fakeSpace struct {
	mu        sync.Mutex
	live      map[uint64]string
	log       []string
	left      []string
	datagrams []datagram
	end       error // of EndDatagrams

	route, close error // of Route and CloseConnections
	found        repair
}

func (f *fakeSpace) Open(path string) (namespace, error) {
	if strings.Contains(path, "missing") {
		return nil, os.ErrNotExist
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(path))
	return &fakeNamespace{f, path, h.Sum64()}, nil
}

func (f *fakeSpace) Left(_ uint64, path string) error {
	f.left = append(f.left, path)
	return nil
}

type fakeNamespace struct {
	f      *fakeSpace
	path   string
	cookie uint64
}

func (n *fakeNamespace) Cookie() uint64 { return n.cookie }
func (n *fakeNamespace) Same() bool     { return true }
func (n *fakeNamespace) Close() error   { return nil }
func (n *fakeNamespace) Joined() bool   { return n.f.live[n.cookie] != "" }

func (n *fakeNamespace) Check() (repair, bool) {
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	return n.f.found, n.f.live[n.cookie] != ""
}

func (n *fakeNamespace) Attach(bool) error {
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	n.f.live[n.cookie] = n.path
	return nil
}

func (n *fakeNamespace) Route(bool) error { return n.f.route }

func (f *fakeSpace) Datagrams(in []namespace) ([]datagram, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.datagrams), func(d datagram) bool {
		return !slices.ContainsFunc(in, func(n namespace) bool { return n.Cookie() == d.netns })
	}), nil
}

func (n *fakeNamespace) EndDatagrams(end []datagram) error {
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	if n.f.end != nil {
		return n.f.end
	}
	n.f.datagrams = slices.DeleteFunc(n.f.datagrams, func(d datagram) bool {
		return slices.ContainsFunc(end, d.same)
	})
	return nil
}

func (n *fakeNamespace) Detach(bool) error {
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	delete(n.f.live, n.cookie)
	return nil
}

func (n *fakeNamespace) CloseConnections(_ func(local, remote netip.AddrPort) bool) (int, error) {
	if n.f.close != nil {
		return 0, n.f.close
	}
	n.f.log = append(n.f.log, "close in "+n.path)
	return 1, nil
}

type fakeNode struct {
	t     *testing.T
	st    *state.State
	kern  *fakeTables
	space *fakeSpace
	rec   *reconciler

	acceptTimeout time.Duration
	leaveTimeout  time.Duration
	tunnel        bool
	programs      programs
}

func newFakeNode(t *testing.T) *fakeNode {
	f := &fakeNode{t: t, st: state.New(state.NewDB()), kern: newFakeTables(), space: &fakeSpace{live: map[uint64]string{}}}
	f.restart()
	return f
}

func (f *fakeNode) restart() {
	f.t.Helper()
	rec, err := newReconciler(reconcilerConfig{
		log: slog.New(slog.NewTextHandler(testWriter{f.t}, nil)), st: f.st, tables: f.kern.tables(), namespaces: f.space,
		acceptTimeout: f.acceptTimeout, leaveTimeout: f.leaveTimeout, tunnel: f.tunnel, programs: f.programs,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.rec = rec
}

// apply reconciles everything, and returns what is wrong by the keys of subjects.
func (f *fakeNode) apply() map[string]string {
	snap := f.st.Snapshot()
	f.rec.reconcile(snap, f.rec.everything(snap))
	return f.faults()
}

// run runs the reconciler until stop is called.
func (f *fakeNode) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.rec.run(ctx) }()
	return func() {
		f.t.Helper()
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	}
}

func (f *fakeNode) faults() map[string]string {
	out := map[string]string{}
	for p := range f.st.Programmed.All(f.st.Snapshot()) {
		if p.Error != "" {
			out[p.Key()] = p.Error
		}
	}
	return out
}

func write[T any](f *fakeNode, table *state.Table[T], o ...T) {
	w := f.st.Write(table)
	for _, x := range o {
		table.Put(w, x)
	}
	w.Commit()
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func svc(name string, addr string, proto model.Protocol, affinity time.Duration) *model.Service {
	return &model.Service{
		Namespace: "ns", Name: name, Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Affinity: affinity,
		Ports: []model.ServicePort{{Port: 80, Protocol: proto}},
	}
}

func eps(name string, proto model.Protocol, backends ...string) *model.Endpoints {
	e := &model.Endpoints{Service: "ns/" + name, Port: 80, Protocol: proto}
	for _, b := range backends {
		e.Backends = append(e.Backends, model.Endpoint{Address: ap(b)})
	}
	return e
}

// serving gives what a connection to a frontend may meet.
func (f *fakeNode) serving(front string, proto model.Protocol) []string {
	fe, ok := f.kern.frontends.entries[encodeFrontend(ap(front), proto)]
	if !ok {
		return nil
	}
	out := []string{}
	for i := range fe.Count {
		b, ok := f.kern.slots.entries[weftSlotKey{Service: fe.Service, Slot: i}]
		if !ok {
			f.t.Errorf("%s counts %d backends, slot %d is empty", front, fe.Count, i)
			continue
		}
		out = append(out, decode(b).String())
	}
	slices.Sort(out)
	return out
}

func TestServiceEntries(t *testing.T) {
	s := &model.Service{
		Namespace: "ns", Name: "s", Affinity: time.Minute,
		Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd96::1"), netip.MustParseAddr("192.0.2.1")},
		Ports:     []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true}, {Port: 53, Protocol: model.UDP, L7: true}},
	}
	e := eps("s", model.TCP, "10.0.0.1:8080", "10.0.0.1:8080", "[fd00::1]:8080", "10.0.0.2:8080")
	e.Backends[3].Terminating = true
	only := &model.Endpoints{Service: "ns/s", Port: 53, Protocol: model.UDP, Backends: []model.Endpoint{{Address: ap("10.0.0.3:53"), Terminating: true}}}
	got := serviceEntries(s, func(key string) (*model.Endpoints, bool) {
		m := map[string]*model.Endpoints{"ns/s/80": e, "ns/s/53/udp": only}
		return m[key], m[key] != nil
	}, undivided, noCallers)
	var text []string
	for _, p := range got {
		var fronts, backs []string
		for _, k := range p.Frontends {
			fronts = append(fronts, fmt.Sprintf("%s:%d/%s", decodeAddr(k.Addr), encodePort(k.Port), model.Protocol(k.Proto)))
		}
		for _, b := range p.Backends {
			backs = append(backs, decode(b).String())
		}
		text = append(text, fmt.Sprintf("%s %v -> %v l7=%v affinity=%d sticky=%v", p.Name, fronts, backs, p.L7, p.Affinity, p.Sticky))
	}
	want := []string{
		"ns/s/80 [10.96.0.1:80/TCP 192.0.2.1:80/TCP] -> [10.0.0.1:8080] l7=true affinity=60 sticky=true",
		"ns/s/80|6 [fd96::1:80/TCP] -> [[fd00::1]:8080] l7=true affinity=60 sticky=true",
		"ns/s/53/udp [10.96.0.1:53/UDP 192.0.2.1:53/UDP] -> [10.0.0.3:53] l7=false affinity=60 sticky=true",
		"ns/s/53/udp|6 [fd96::1:53/UDP] -> [] l7=false affinity=60 sticky=true",
	}
	if d := cmp.Diff(want, text); d != "" {
		t.Error(d)
	}
}

// TestServiceEntriesLeadNowhereIntoTheNode: these addresses are the machine's own.
func TestServiceEntriesLeadNowhereIntoTheNode(t *testing.T) {
	own := []string{"127.0.0.1", "127.1.2.3", "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "ff02::1",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254"}
	s := &model.Service{Namespace: "ns", Name: "s", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd96::1")},
		Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}}
	e := eps("s", model.TCP, "10.0.0.1:8080", "[fd00::1]:8080")
	for _, a := range own {
		addr := netip.MustParseAddr(a)
		s.Addresses = append(s.Addresses, addr)
		e.Backends = append(e.Backends, model.Endpoint{Address: netip.AddrPortFrom(addr, 10250)})
	}
	for _, p := range serviceEntries(s, func(string) (*model.Endpoints, bool) { return e, true }, undivided, noCallers) {
		if len(p.Frontends) != 1 || len(p.Backends) != 1 {
			t.Errorf("%s has %d frontends and %d backends, want 1 of each", p.Name, len(p.Frontends), len(p.Backends))
		}
	}
}

func TestArrange(t *testing.T) {
	list := func(s string) []weftEndpoint {
		out := []weftEndpoint{}
		for _, c := range s {
			out = append(out, encode(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(c)}), 1)))
		}
		return out
	}
	for _, tt := range []struct{ have, want, arranged string }{
		{"", "abc", "abc"}, {"abc", "", ""}, {"abc", "cba", "abc"}, {"abc", "bcd", "dbc"}, {"abcd", "ad", "ad"},
		{"abcd", "cd", "cd"}, {"abcd", "bd", "db"}, {"ab", "cdab", "abcd"}, {"aab", "ab", "ab"},
	} {
		if d := cmp.Diff(list(tt.arranged), arrange(list(tt.have), list(tt.want))); d != "" {
			t.Errorf("%s to %s: %s", tt.have, tt.want, d)
		}
	}
}

// After every single write to any map, each frontend's slots are full.
func TestNoWriteLeavesAHole(t *testing.T) {
	f := newFakeNode(t)
	front := encodeFrontend(ap("10.96.0.1:80"), model.TCP)
	steps := 0
	whole := func() {
		steps++
		fe, ok := f.kern.frontends.entries[front]
		if !ok {
			return
		}
		for i := range fe.Count {
			if _, ok := f.kern.slots.entries[weftSlotKey{Service: fe.Service, Slot: i}]; !ok {
				t.Errorf("slot %d of %d is empty", i, fe.Count)
			}
		}
	}
	f.kern.frontends.seen = func(map[weftFrontendKey]weftFrontend) { whole() }
	f.kern.slots.seen = func(map[weftSlotKey]weftEndpoint) { whole() }
	write(f, f.st.Services, svc("s", "10.96.0.1", model.TCP, 0))
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var b []string
		for i := range 12 {
			if r.IntN(2) == 0 {
				b = append(b, fmt.Sprintf("10.0.0.%d:80", i+1))
			}
		}
		write(f, f.st.Endpoints, eps("s", model.TCP, b...))
		if errs := f.apply(); len(errs) > 0 {
			t.Fatal(errs)
		}
		slices.Sort(b)
		if d := cmp.Diff(append([]string{}, b...), f.serving("10.96.0.1:80", model.TCP)); d != "" {
			t.Fatal(d)
		}
	}
	if steps < 1000 {
		t.Errorf("only %d writes were looked at", steps)
	}
}

func TestOnlyDifferencesAreWritten(t *testing.T) {
	f := newFakeNode(t)
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("10.0.%d.%d:80", i/100, i%100+1))
	}
	write(f, f.st.Services, svc("s", "10.96.0.1", model.TCP, 0))
	write(f, f.st.Endpoints, eps("s", model.TCP, many...))
	f.apply()
	count := func() int { return f.kern.slots.writes + f.kern.frontends.writes }
	before := count()
	f.apply()
	if n := count() - before; n != 0 {
		t.Errorf("%d writes without a change", n)
	}
	write(f, f.st.Endpoints, eps("s", model.TCP, many[1:]...))
	f.apply()
	if n := count() - before; n > 3 {
		t.Errorf("%d writes for one endpoint that went, want the moved slot, the count and the last slot", n)
	}
}

func TestFullMapNamesTheServiceAndTheRestGoesOn(t *testing.T) {
	f := newFakeNode(t)
	f.kern.slots.limit = 3
	write(f, f.st.Services, svc("big", "10.96.0.1", model.TCP, 0))
	write(f, f.st.Endpoints, eps("big", model.TCP, "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"))
	errs := f.apply()
	err := errs["service/ns/big"]
	if !strings.Contains(err, "ns/big/80") || !strings.Contains(err, "full") {
		t.Errorf("error %q, want one that names the port and the full map", err)
	}
	if n := len(f.serving("10.96.0.1:80", model.TCP)); n != 3 {
		t.Errorf("%d backends serve, want those that fit", n)
	}
	write(f, f.st.Services, svc("other", "10.96.0.2", model.TCP, 0))
	if errs := f.apply(); len(errs) != 1 {
		t.Errorf("errors %v, want that of ns/big alone", errs)
	}
	if got := f.serving("10.96.0.2:80", model.TCP); got == nil {
		t.Error("the other Service has no frontend")
	}
	f.kern.slots.limit = 0
	if errs := f.apply(); len(errs) != 0 {
		t.Errorf("errors after there is room: %v", errs)
	}
	if n := len(f.serving("10.96.0.1:80", model.TCP)); n != 4 {
		t.Errorf("%d backends serve, want all", n)
	}
}

// Any write may fail at any time: what is in the maps has no holes, and once writes succeed all is as it should be.
func TestFailingWrites(t *testing.T) {
	f := newFakeNode(t)
	r := rand.New(rand.NewPCG(3, 4))
	broken := true
	fail := func() error {
		if broken && r.IntN(4) == 0 {
			return errors.New("injected")
		}
		return nil
	}
	f.kern.frontends.fail = func(weftFrontendKey) error { return fail() }
	f.kern.slots.fail = func(weftSlotKey) error { return fail() }
	f.kern.members.fail = func(weftMemberKey) error { return fail() }
	f.kern.peers.fail = func(weftAddress) error { return fail() }
	f.kern.pods.fail = func(uint64) error { return fail() }
	for round := range 200 {
		for _, name := range []string{"a", "b"} {
			var b []string
			for i := range 8 {
				if r.IntN(2) == 0 {
					b = append(b, fmt.Sprintf("10.0.0.%d:80", i+1))
				}
			}
			write(f, f.st.Endpoints, eps(name, model.UDP, b...))
			write(f, f.st.Services, svc(name, map[string]string{"a": "10.96.0.1", "b": "10.96.0.2"}[name], model.UDP, 0))
		}
		if round%5 == 4 {
			w := f.st.Write(f.st.Services)
			f.st.Services.Delete(w, "ns/b")
			w.Commit()
		}
		write(f, f.st.Workloads, &model.Workload{Namespace: "ns", Name: "w", Local: true, NetNS: "/w", Identity: "spiffe://td/ns/ns/sa/w",
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, MTLS: model.MTLSMode(r.IntN(3))})
		f.apply()
		f.serving("10.96.0.1:80", model.UDP)
		f.serving("10.96.0.2:80", model.UDP)
	}
	broken = false
	f.apply()
	if errs := f.apply(); len(errs) > 0 {
		t.Fatal(errs)
	}
	want := newFakeNode(t)
	want.st = f.st
	want.restart()
	want.apply()
	for _, front := range []string{"10.96.0.1:80", "10.96.0.2:80"} {
		if d := cmp.Diff(want.serving(front, model.UDP), f.serving(front, model.UDP)); d != "" {
			t.Errorf("%s: %s", front, d)
		}
	}
	for what, n := range map[string][2]int{
		"frontends": {len(f.kern.frontends.entries), len(want.kern.frontends.entries)},
		"slots":     {len(f.kern.slots.entries), len(want.kern.slots.entries)},
		"members":   {len(f.kern.members.entries), len(want.kern.members.entries)},
		"pods":      {len(f.kern.pods.entries), len(want.kern.pods.entries)},
	} {
		if n[0] != n[1] {
			t.Errorf("%s: %d entries, want %d", what, n[0], n[1])
		}
	}
}

func TestRestartAdoptsAndPrunes(t *testing.T) {
	f := newFakeNode(t)
	write(f, f.st.Services, svc("kept", "10.96.0.1", model.TCP, time.Hour), svc("gone", "10.96.0.2", model.TCP, time.Hour))
	write(f, f.st.Endpoints, eps("kept", model.TCP, "10.0.0.1:80", "10.0.0.2:80"), eps("gone", model.TCP, "10.0.0.3:80"))
	w := func(name string) *model.Workload {
		return &model.Workload{Namespace: "ns", Name: name, Local: true, NetNS: "/" + name, Identity: "spiffe://td/x",
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.1." + fmt.Sprint(len(name)))}, MTLS: model.MTLSStrict, Probes: []model.Probe{{Port: 80, Kind: model.ProbeTCP}}}
	}
	write(f, f.st.Workloads, w("kept"), w("leaves"))
	f.apply()
	id := f.kern.frontends.entries[encodeFrontend(ap("10.96.0.1:80"), model.TCP)].Service

	f.st = state.New(state.NewDB())
	f.restart()
	before := f.kern.frontends.writes + f.kern.slots.writes + f.kern.pods.writes
	write(f, f.st.Services, svc("kept", "10.96.0.1", model.TCP, time.Hour), svc("new", "10.96.0.3", model.TCP, 0))
	write(f, f.st.Endpoints, eps("kept", model.TCP, "10.0.0.2:80", "10.0.0.1:80"))
	write(f, f.st.Workloads, w("kept"))
	f.apply()
	if n := f.kern.frontends.writes + f.kern.slots.writes + f.kern.pods.writes - before; n != 1 {
		t.Errorf("%d writes, want the new Service's frontend alone", n)
	}
	if got := f.serving("10.96.0.2:80", model.TCP); len(got) != 1 {
		t.Errorf("an entry went before the model was complete: %v", got)
	}
	if got := f.kern.frontends.entries[encodeFrontend(ap("10.96.0.1:80"), model.TCP)].Service; got != id {
		t.Errorf("number %d, want %d as before", got, id)
	}
	snap := f.st.Snapshot()
	todo := f.rec.everything(snap)
	todo[leftovers] = struct{}{}
	f.rec.reconcile(snap, todo)
	if got := f.serving("10.96.0.2:80", model.TCP); got != nil {
		t.Errorf("the old Service is still there: %v", got)
	}
	if d := cmp.Diff([]string{"/leaves"}, f.space.left); d != "" {
		t.Error(d)
	}
	if n := len(f.kern.slots.entries) + len(f.kern.members.entries); n != 4 {
		t.Errorf("%d slots and members, want those of the Service that was kept", n)
	}
	if len(f.kern.pods.entries) != 1 || len(f.kern.own.entries) != 1 || len(f.kern.probes.entries) != 1 || len(f.kern.namespaces.entries) != 1 {
		t.Errorf("entries of the old workload are left: %+v", f.kern.own.entries)
	}
}

func TestOneAddressTwoServices(t *testing.T) {
	f := newFakeNode(t)
	write(f, f.st.Services, svc("b", "10.96.0.1", model.TCP, 0))
	write(f, f.st.Endpoints, eps("a", model.TCP, "10.0.0.1:80"), eps("b", model.TCP, "10.0.0.2:80"))
	f.apply()
	write(f, f.st.Services, svc("a", "10.96.0.1", model.TCP, 0))
	errs := f.apply()
	if d := cmp.Diff([]string{"10.0.0.1:80"}, f.serving("10.96.0.1:80", model.TCP)); d != "" {
		t.Error(d)
	}
	if err := errs["service/ns/b"]; !strings.Contains(err, "10.96.0.1:80/TCP is taken by ns/a/80") {
		t.Errorf("error %v, want one that names the address and who has it", err)
	}
	w := f.st.Write(f.st.Services)
	f.st.Services.Delete(w, "ns/a")
	w.Commit()
	f.apply()
	if d := cmp.Diff([]string{"10.0.0.2:80"}, f.serving("10.96.0.1:80", model.TCP)); d != "" {
		t.Error(d)
	}
	if errs := f.apply(); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestPeersAndPods(t *testing.T) {
	f := newFakeNode(t)
	addr := netip.MustParseAddr("10.0.0.9")
	for _, tt := range []struct {
		name  string
		w     model.Workload
		peer  uint32
		pod   uint32
		close bool
	}{
		{"disabled", model.Workload{}, 0, 0, false},
		{"permissive", model.Workload{MTLS: model.MTLSPermissive, Identity: "spiffe://td/x"}, 1, 1, false},
		{"strict", model.Workload{MTLS: model.MTLSStrict, Identity: "spiffe://td/x"}, 3, 3, true},
		{"strict still", model.Workload{MTLS: model.MTLSStrict, Identity: "spiffe://td/x", Probes: []model.Probe{{Port: 1, Kind: model.ProbeTCP}}}, 3, 3, false},
		{"policed", model.Workload{MTLS: model.MTLSPermissive, Identity: "spiffe://td/x", Policy: &model.Policy{}}, 1, 5, true},
		{"free", model.Workload{MTLS: model.MTLSPermissive, Identity: "spiffe://td/x"}, 1, 1, false},
	} {
		w := tt.w
		w.Namespace, w.Name, w.Local, w.NetNS, w.Addresses = "ns", "w", true, "/w", []netip.Addr{addr}
		f.space.log = nil
		write(f, f.st.Workloads, &w)
		if errs := f.apply(); len(errs) > 0 {
			t.Fatal(errs)
		}
		if got := f.kern.peers.entries[encodeAddr(addr)]; got != tt.peer {
			t.Errorf("%s: peer %d, want %d", tt.name, got, tt.peer)
		}
		for _, got := range f.kern.pods.entries {
			if got != tt.pod {
				t.Errorf("%s: pod %d, want %d", tt.name, got, tt.pod)
			}
		}
		if (len(f.space.log) > 0) != tt.close {
			t.Errorf("%s: %v, want connections closed: %v", tt.name, f.space.log, tt.close)
		}
		if len(f.kern.probes.entries) != len(w.Probes) {
			t.Errorf("%s: probes %v", tt.name, f.kern.probes.entries)
		}
	}
	if got := f.space.live; len(got) != 1 {
		t.Errorf("namespaces %v", got)
	}
}

// TestPeersOfNodesWithoutTunnel follows what nodes say that they accept.
func TestPeersOfNodesWithoutTunnel(t *testing.T) {
	local := netip.MustParseAddr("10.0.0.1")
	remote := netip.MustParseAddr("10.0.0.9")
	for _, uses := range []bool{false, true} {
		f := newFakeNode(t)
		f.tunnel = uses
		f.restart()
		feed := f.st.Feed()
		defer feed.Close()
		write(f, f.st.Workloads,
			&model.Workload{Namespace: "ns", Name: "local", Local: true, NetNS: "/w", Node: "a", Addresses: []netip.Addr{local}, MTLS: model.MTLSStrict, Identity: "spiffe://td/x"},
			&model.Workload{Namespace: "ns", Name: "remote", Node: "b", Addresses: []netip.Addr{remote}, MTLS: model.MTLSStrict, Identity: "spiffe://td/y"})
		for _, tt := range []struct {
			accepts []model.Transport
			byEnvoy bool
		}{
			{nil, true},
			{[]model.Transport{model.TransportHBONE}, true},
			{[]model.Transport{model.TransportHBONE, model.TransportTunnel}, false},
			{[]model.Transport{model.TransportHBONE}, true}, // it went back
		} {
			if tt.accepts != nil {
				write(f, f.st.Nodes, &model.Node{Name: "b", Accepts: tt.accepts})
			}
			keys, snap := feed.Take()
			f.rec.reconcile(snap, f.rec.dirty(keys, snap))
			if errs := f.faults(); len(errs) > 0 {
				t.Fatal(errs)
			}
			if got, want := f.kern.peers.entries[encodeAddr(remote)]&peerByEnvoy != 0, uses && tt.byEnvoy; got != want {
				t.Errorf("weft tunnel %v, node accepts %v: Envoy takes connections to its pod: %v, want %v", uses, tt.accepts, got, want)
			}
			if f.kern.peers.entries[encodeAddr(local)]&peerByEnvoy != 0 {
				t.Error("Envoy takes connections to a pod of this node")
			}
		}
	}
}

// What one change takes from one pod and gives to another is not a conflict, in whatever order the change is read.
func TestNamespaceAndAddressChangeHands(t *testing.T) {
	f := newFakeNode(t)
	pod := func(name string, i int) *model.Workload {
		return &model.Workload{
			Namespace: "ns", Name: fmt.Sprint(name, i), Local: true, NetNS: fmt.Sprint("/", i),
			MTLS: model.MTLSStrict, Identity: "spiffe://td/x", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})},
		}
	}
	const pods = 16 // map order hides a wrong one with two pods
	for i := range pods {
		write(f, f.st.Workloads, pod("old", i))
	}
	f.apply()
	w := f.st.Write(f.st.Workloads)
	for i := range pods {
		f.st.Workloads.Delete(w, fmt.Sprint("ns/old", i))
		f.st.Workloads.Put(w, pod("new", i))
	}
	w.Commit()
	if errs := f.apply(); len(errs) > 0 {
		t.Error(errs)
	}
	for _, owner := range f.rec.workloads.owner {
		if !strings.HasPrefix(owner, "ns/new") {
			t.Errorf("a namespace belongs to %s", owner)
		}
	}
	if len(f.rec.workloads.owner) != pods || len(f.kern.peers.entries) != pods {
		t.Errorf("%d namespaces, %d peers", len(f.rec.workloads.owner), len(f.kern.peers.entries))
	}
}

func TestRunFollowsAndEnds(t *testing.T) {
	f := newFakeNode(t)
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	done := make(chan error, 1)
	f.programs = fakePrograms(func() { close(ready) })
	f.restart()
	go func() { done <- f.rec.run(ctx) }()
	f.st.MarkSynced()
	<-ready
	write(f, f.st.Services, svc("s", "10.96.0.1", model.TCP, 0))
	write(f, f.st.Endpoints, eps("s", model.TCP, "10.0.0.1:80"))
	write(f, f.st.Workloads, &model.Workload{Namespace: "ns", Name: "bad", Local: true, NetNS: "/missing"})
	_, revision, _ := f.st.Services.Revision(f.st.Snapshot(), "ns/s")
	eventually(t, "the service is there", func() bool {
		return f.programmed("service/ns/s", revision) && f.faults()["workload/ns/bad"] != ""
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := f.serving("10.96.0.1:80", model.TCP); len(got) != 1 {
		t.Errorf("endpoints %v", got)
	}
}

func TestCapabilitiesAreNamed(t *testing.T) {
	got := checkCapabilities(0)
	if len(got) != 2 || !strings.Contains(fmt.Sprint(got), "CAP_SYS_ADMIN") || !strings.Contains(fmt.Sprint(got), "CAP_NET_ADMIN") {
		t.Errorf("problems %v", got)
	}
	lacks := missing(Check(Config{CgroupRoot: t.TempDir()}))
	if !slices.ContainsFunc(lacks, func(f Finding) bool { return f.Name == "cgroup2" }) {
		t.Errorf("a directory that is no cgroup is taken: %v", lacks)
	}
	for _, f := range lacks {
		if f.Name == "" || f.What == "" {
			t.Errorf("%+v does not say what is missing", f)
		}
	}
}

func FuzzEvent(f *testing.F) {
	f.Add(make([]byte, unsafe.Sizeof(weftEvent{})))
	f.Add([]byte("short"))
	d := &Datapath{}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := d.parseEvent(raw, newClock())
		if err == nil && (e.Kind.String() == "" && e.Kind != 0 || e.Verdict.String() == "" && e.Verdict != 0) {
			t.Errorf("%+v", e)
		}
	})
}

func FuzzEncode(f *testing.F) {
	f.Add("10.0.0.1:80", "/run/netns/x")
	f.Add("[fd00::1]:80", strings.Repeat("x", 256))
	f.Fuzz(func(t *testing.T, addr, path string) {
		if p, ok := encodePath(path); ok && !strings.Contains(path, "\x00") && decodePath(p) != path {
			t.Errorf("path %q became %q", path, decodePath(p))
		}
		a, err := netip.ParseAddrPort(addr)
		if err != nil || a.Addr().Zone() != "" {
			return
		}
		want := netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		if got := decode(encode(a)); got != want && encode(a) != (weftEndpoint{}) {
			t.Errorf("%s became %s", want, got)
		}
	})
}

// fakePrograms is called when the programs are attached.
type fakePrograms func()

func (f fakePrograms) attach() error            { f(); return nil }
func (f fakePrograms) check() map[string]repair { return nil }
func (f fakePrograms) checkPins() repair        { return repair{} }
