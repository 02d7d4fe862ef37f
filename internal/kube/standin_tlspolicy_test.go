package kube

import (
	"testing"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// TestATLSPolicyThatCannotBeReadStandsForItsTargets: without it they would be sent to in the clear.
func TestATLSPolicyThatCannotBeReadStandsForItsTargets(t *testing.T) {
	ref := model.ObjectRef{Group: gwv1.GroupName, Kind: "BackendTLSPolicy", Namespace: "shop", Name: "tls"}
	spec := func(targets any) map[string]any {
		return map[string]any{"spec": map[string]any{"validation": "nonsense", "targetRefs": targets}}
	}
	d := (&decoder{}).standIn(ref, spec([]any{map[string]any{"group": "", "kind": "Service", "name": "web"}}), nil)
	if d == nil || !d.standsIn() {
		t.Fatal("nothing stands in")
	}
	if p := d.obj.(*gwv1.BackendTLSPolicy); len(p.Spec.TargetRefs) != 1 || p.Spec.TargetRefs[0].Name != "web" {
		t.Errorf("%+v stands in", p)
	}
	for _, targets := range []any{nil, "web", []any{}, []any{1}} {
		if d := (&decoder{}).standIn(ref, spec(targets), nil); d != nil {
			t.Errorf("targets %v: %+v stands in", targets, d.obj)
		}
	}
}
