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
