package datapath

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// accept writes that Envoy has accepted a row as it is now.
func (f *fakeNode) accept(kind model.SubjectKind, name string) {
	f.t.Helper()
	snap := f.st.Snapshot()
	var revision uint64
	switch kind {
	case model.SubjectWorkload:
		_, revision, _ = f.st.Workloads.Revision(snap, name)
	case model.SubjectService:
		_, revision, _ = f.st.Services.Revision(snap, name)
	}
	write(f, f.st.Accepted, &model.Accepted{Subject: model.Subject{Kind: kind, Name: name}, Revision: revision})
}

// programmed returns the revision that the kernel holds, and the model's.
func (f *fakeNode) programmed(key string, revision uint64) bool {
	row, ok := f.st.Programmed.Get(f.st.Snapshot(), key)
	return ok && row.Revision == revision
}

func TestScheduleOfWaits(t *testing.T) {
	o := object{model.SubjectService, "ns/s"}
	const patience, settle = 2 * time.Second, 20 * time.Millisecond
	start := time.Now()
	for name, steps := range map[string][]struct {
		after          time.Duration
		accepted, over bool
	}{
		"accepted":                 {{0, false, false}, {10 * time.Millisecond, true, false}, {29 * time.Millisecond, true, false}, {30 * time.Millisecond, true, true}},
		"never accepted":           {{0, false, false}, {patience - 1, false, false}, {patience, false, true}},
		"accepted at the last":     {{0, false, false}, {patience - 1, true, false}, {patience, true, true}},
		"accepted, and then newer": {{0, true, false}, {10 * time.Millisecond, false, false}, {time.Second, true, false}, {time.Second + settle, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSchedule()
			for _, step := range steps {
				now := start.Add(step.after)
				if got := s.over(o, step.accepted, patience, settle, now); got != step.over {
					t.Fatalf("after %v: over %v, want %v", step.after, got, step.over)
				}
				if at, ok := s.next(); !ok || !step.over && !at.After(now) {
					t.Fatalf("after %v: due at %v (%v)", step.after, at.Sub(start), ok)
				}
			}
		})
	}
}

func TestRetriesSlowDown(t *testing.T) {
	s := newSchedule()
	o := object{model.SubjectService, "ns/s"}
	now := time.Now()
	var pauses []time.Duration
	for range 12 {
		_ = s.fail(o, errors.New("injected"), now)
		at, ok := s.next()
		if !ok || len(s.due(at)) != 1 || len(s.due(at.Add(-1))) != 0 {
			t.Fatal("it is not due when it should be")
		}
		pauses = append(pauses, at.Sub(now))
		now = at
	}
	if pauses[0] != retryFirst || pauses[11] != retryLast {
		t.Errorf("pauses %v", pauses)
	}
	if s.succeed(o) == nil {
		t.Error("the error is forgotten")
	}
	if _, ok := s.next(); ok {
		t.Error("it is still due")
	}
}

// TestFirstIdentityWaitsForEnvoy: a running reconciler hears of Envoy's answer by the table.
func TestFirstIdentityWaitsForEnvoy(t *testing.T) {
	for name, tt := range map[string]struct {
		before  *model.Workload
		timeout time.Duration
		accept  bool
		waits   bool
	}{
		"open before":      {&model.Workload{}, time.Hour, true, true},
		"Envoy is away":    {&model.Workload{}, 10 * time.Millisecond, false, true},
		"new":              {nil, time.Hour, false, false},
		"had an identity":  {&model.Workload{Identity: "spiffe://td/ns/ns/sa/a"}, time.Hour, false, false},
		"it does not wait": {&model.Workload{}, 0, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeNode(t)
			f.acceptTimeout = tt.timeout
			f.restart()
			pod := func(w model.Workload) *model.Workload {
				w.Namespace, w.Name, w.Local, w.NetNS, w.Addresses = "ns", "a", true, "/run/netns/a", testenv.Addrs("10.0.0.1")
				return &w
			}
			if tt.before != nil {
				write(f, f.st.Workloads, pod(*tt.before))
				f.apply()
			}
			write(f, f.st.Workloads, pod(model.Workload{MTLS: model.MTLSStrict, Identity: "spiffe://td/ns/ns/sa/a"}))
			_, revision, _ := f.st.Workloads.Revision(f.st.Snapshot(), "ns/a")
			f.apply()
			if got := !f.programmed("workload/ns/a", revision); got != tt.waits {
				t.Fatalf("it waits: %v, want %v", got, tt.waits)
			}
			if !tt.waits {
				return
			}
			if len(f.kern.peers.entries) > 0 {
				t.Error("peers know of the identity already")
			}
			stop := f.run()
			defer stop()
			if tt.accept {
				f.accept(model.SubjectWorkload, "ns/a")
			}
			eventually(t, "the identity is programmed", func() bool { return f.programmed("workload/ns/a", revision) })
		})
	}
}

// TestFirstIdentityWaitsForTheTunnel: peers may send by weft tunnel where one is connected, so Envoy alone is not enough.
func TestFirstIdentityWaitsForTheTunnel(t *testing.T) {
	f := newFakeNode(t)
	f.acceptTimeout = time.Hour
	f.restart()
	w := &model.Workload{Namespace: "ns", Name: "a", Local: true, NetNS: "/run/netns/a", Addresses: testenv.Addrs("10.0.0.1")}
	write(f, f.st.Workloads, w)
	f.apply()
	with := *w
	with.Identity = "spiffe://td/ns/ns/sa/a"
	write(f, f.st.Workloads, &with)
	f.accept(model.SubjectWorkload, "ns/a")
	write(f, f.st.Carried, &model.Carried{Subject: model.Tunnel})
	_, revision, _ := f.st.Workloads.Revision(f.st.Snapshot(), "ns/a")
	f.apply()
	if len(f.kern.peers.entries) > 0 || f.programmed("workload/ns/a", revision) {
		t.Fatal("peers know of the identity before the tunnel listens")
	}
	stop := f.run()
	defer stop()
	write(f, f.st.Carried, &model.Carried{Subject: model.Subject{Kind: model.SubjectWorkload, Name: "ns/a"}, Revision: revision})
	eventually(t, "the identity is programmed", func() bool { return f.programmed("workload/ns/a", revision) })
}

// TestFirstRouteWaitsForEnvoy: the kernel balances a port until Envoy has its routes.
func TestFirstRouteWaitsForEnvoy(t *testing.T) {
	f := newFakeNode(t)
	f.acceptTimeout = time.Hour
	f.restart()
	service := svc("web", "10.96.0.1", model.TCP, 0)
	at := frontendsOf(service, service.Ports[0], false, 0)[0]
	handed := func() bool { return f.kern.frontends.entries[at].Flags&frontendL7 != 0 }
	set := func(l7 bool) uint64 {
		s := *service
		s.Ports = []model.ServicePort{s.Ports[0]}
		s.Ports[0].L7 = l7
		write(f, f.st.Services, &s)
		f.apply()
		_, revision, _ := f.st.Services.Revision(f.st.Snapshot(), "ns/web")
		return revision
	}
	set(false)
	if revision := set(true); handed() || f.programmed("service/ns/web", revision) {
		t.Error("Envoy gets connections to routes that it does not know")
	}
	write(f, f.st.Endpoints, eps("web", model.TCP, "10.0.0.1:80"))
	f.apply()
	if got := f.serving("10.96.0.1:80", model.TCP); len(got) != 1 {
		t.Errorf("while it waits, endpoints are %v", got)
	}
	f.accept(model.SubjectService, "ns/web")
	f.apply()
	if handed() {
		t.Error("Envoy's workers may not have the route yet")
	}
	time.Sleep(routeSettle)
	f.apply()
	if !handed() {
		t.Error("Envoy has the route, and the kernel balances the port")
	}
	// It stays so, whatever Envoy is told next.
	write(f, f.st.Accepted, &model.Accepted{Subject: model.Subject{Kind: model.SubjectService, Name: "ns/web"}})
	f.apply()
	if !handed() {
		t.Error("the port was taken back")
	}
	if revision := set(false); handed() || !f.programmed("service/ns/web", revision) {
		t.Error("the last route went, and Envoy still gets the connections")
	}
}

func TestNewRoutedPortDoesNotWait(t *testing.T) {
	f := newFakeNode(t)
	f.acceptTimeout = time.Hour
	f.restart()
	service := svc("web", "10.96.0.1", model.TCP, 0)
	service.Ports[0].L7 = true
	write(f, f.st.Services, service)
	f.apply()
	if f.kern.frontends.entries[frontendsOf(service, service.Ports[0], false, 0)[0]].Flags&frontendL7 == 0 {
		t.Error("a Service that is made with its route waits: connections would miss the route as long as they live")
	}
}

// TestFailedCloseIsAFaultOfTheWorkload: until connections could be closed, its row says that they live on.
func TestFailedCloseIsAFaultOfTheWorkload(t *testing.T) {
	f := newFakeNode(t)
	write(f, f.st.Workloads, &model.Workload{Namespace: "ns", Name: "a", Local: true, NetNS: "/run/netns/a", Addresses: testenv.Addrs("10.0.0.1")})
	f.apply()
	stop := f.run()
	defer stop()
	ask := func() error {
		_, err := f.rec.request(t.Context(), closeRequest{workload: "ns/a", which: Inbound})
		return err
	}
	f.space.close = errors.New("operation not supported")
	for range 2 {
		if err := ask(); err == nil {
			t.Fatal("the failure is swallowed")
		}
		if got := f.faults()["workload/ns/a"]; !strings.Contains(got, "live on: operation not supported") {
			t.Fatalf("the row says %q", got)
		}
	}
	// A change of the workload does not hide it.
	write(f, f.st.Workloads, &model.Workload{Namespace: "ns", Name: "a", Local: true, NetNS: "/run/netns/a", Addresses: testenv.Addrs("10.0.0.2")})
	_, revision, _ := f.st.Workloads.Revision(f.st.Snapshot(), "ns/a")
	eventually(t, "the change is programmed", func() bool { return f.programmed("workload/ns/a", revision) })
	if f.faults()["workload/ns/a"] == "" {
		t.Error("the fault is gone, and the connections are not")
	}
	f.space.close = nil
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if got := f.faults()["workload/ns/a"]; got != "" {
		t.Errorf("after the connections were closed the row says %q", got)
	}
}
