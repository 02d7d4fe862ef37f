package manifests

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
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

// TestAStandInEnforces: a Namespace that cannot be read enforces its mode if it did.
func TestAStandInEnforces(t *testing.T) {
	d := newDecoder(kube.NewObjects(state.NewDB()))
	for labels, want := range map[string]bool{
		"weft.io/mtls: strict": false,
		"{weft.io/mtls: strict, weft.io/mtls-enforce: enabled}":         true,
		"{weft.io/mtls: strict, weft.io/mtls-enforce: disabled, a: []}": false,
		"{weft.io/mtls: strict, weft.io/mtls-enforce: yes}":             true,
		"{weft.io/mtls: strict, weft.io/mtls-enforce: enabled":          true,
	} {
		docs := d.chunk(chunk{text: []byte("apiVersion: v1\nkind: Namespace\nnope: 1\nmetadata:\n  name: ns\n  labels: " + labels + "\n")})
		if len(docs) != 1 || docs[0].standIn == nil {
			t.Errorf("%s: nothing stands in", labels)
			continue
		}
		if got := kube.EnforcesMode(docs[0].standIn.obj.(*corev1.Namespace)); got != want {
			t.Errorf("%s: enforces %t, want %t", labels, got, want)
		}
	}
}
