package datapath

import (
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

func TestFirstIdentityWaitsForEnvoy(t *testing.T) {
	listening := false
	ws := &workloads{listens: func(*model.Workload) bool { return listening }}
	plain := &model.Workload{NetNS: "/run/netns/a"}
	strict := &model.Workload{NetNS: "/run/netns/a", MTLS: model.MTLSStrict, Identity: "spiffe://td/ns/a/sa/a"}
	now := time.Now()
	l := &localWorkload{workload: plain}
	if !ws.hold(l, strict, now) || !ws.hold(l, strict, now.Add(HoldIdentity-1)) {
		t.Error("it does not wait")
	}
	if ws.hold(l, strict, now.Add(HoldIdentity)) {
		t.Error("it waits for ever: a strict workload would stay open without Envoy")
	}
	for name, l := range map[string]*localWorkload{
		"new":             nil,
		"had an identity": {workload: strict},
		"other namespace": {workload: &model.Workload{NetNS: "/run/netns/b"}},
	} {
		if ws.hold(l, strict, now) {
			t.Errorf("%s: it waits", name)
		}
	}
	if ws.hold(&localWorkload{workload: plain}, plain, now) {
		t.Error("without an identity it waits")
	}
	listening = true
	if ws.hold(&localWorkload{workload: plain}, strict, now) {
		t.Error("it waits though Envoy listens")
	}
}

func TestFirstRouteWaitsForEnvoy(t *testing.T) {
	f := newFakeNode(t)
	accepted := false
	s := f.rec.services
	s.routes = func(*model.Service, uint16) bool { return accepted }
	service := svc("web", "10.96.0.1", model.TCP, 0)
	at := frontendsOf(service, service.Ports[0], false)[0]
	now := time.Now()
	apply := func(l7 bool, now time.Time) (handed, held bool) {
		service.Ports[0].L7 = l7
		want := serviceEntries(service, func(string) (*model.Endpoints, bool) { return nil, false })
		held = s.holdRoutes(service, want, now)
		if err := s.apply(service.Key(), want); err != nil {
			t.Fatal(err)
		}
		return s.frontends.have[at].Flags&frontendL7 != 0, held
	}
	for i, step := range []struct {
		l7, accepted bool
		after        time.Duration
		handed, held bool
	}{
		{false, false, 0, false, false},
		{true, false, 0, false, true},               // its first route
		{true, true, 1, false, true},                // Envoy's workers may not have it yet
		{true, true, 2, true, false},                // it is handed over
		{true, false, 3, true, false},               // and stays so, whatever Envoy is told next
		{false, false, 4, false, false},             // the last route goes
		{true, false, 5, false, true},               // and comes again
		{true, false, 4 + HoldRoutes, false, true},  // without an Envoy
		{true, false, 5 + HoldRoutes, true, false},  // not for ever
		{true, false, 10 + HoldRoutes, true, false}, // nor again
	} {
		accepted = step.accepted
		if handed, held := apply(step.l7, now.Add(step.after)); handed != step.handed || held != step.held {
			t.Errorf("step %d: handed over %v, held %v; want %v, %v", i, handed, held, step.handed, step.held)
		}
	}
}

func TestNewRoutedPortDoesNotWait(t *testing.T) {
	f := newFakeNode(t)
	s := f.rec.services
	s.routes = func(*model.Service, uint16) bool { return false }
	service := svc("web", "10.96.0.1", model.TCP, 0)
	service.Ports[0].L7 = true
	want := serviceEntries(service, func(string) (*model.Endpoints, bool) { return nil, false })
	if s.holdRoutes(service, want, time.Now()) || !want[0].L7 {
		t.Error("a Service that is made with its route waits: connections would miss the route as long as they live")
	}
}
