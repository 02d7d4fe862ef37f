package controller

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/internal/model"
)

// TestAncestors: entries of others stay, ours are replaced, and no more are written than the API takes.
func TestAncestors(t *testing.T) {
	m := merger{controller: "weft.io/gateway-controller", now: now}
	gateway := func(name string) model.ObjectRef {
		return model.ObjectRef{Group: gwv1.GroupName, Kind: "Gateway", Namespace: "ns", Name: name}
	}
	entry := func(controller, name string, c metav1.Condition) gwv1.PolicyAncestorStatus {
		return gwv1.PolicyAncestorStatus{AncestorRef: ancestorRef(gateway(name)), ControllerName: gwv1.GatewayController(controller), Conditions: []metav1.Condition{c}}
	}
	accepted := []model.Condition{{Type: "Accepted", Status: true, Reason: "Accepted"}}
	policy := &gwv1.BackendTLSPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Generation: 2}}
	policy.Status.Ancestors = []gwv1.PolicyAncestorStatus{
		entry(m.controller, "old", cond("Accepted", "True", "Accepted", 1, before)),
		entry("example.com/other", "old", cond("Accepted", "True", "Accepted", 1, before)),
		entry(m.controller, "kept", cond("Accepted", "True", "Accepted", 1, before)),
	}
	telemetry := &gwxv1.XTelemetryPolicy{ObjectMeta: policy.ObjectMeta}
	telemetry.Status.Ancestors = policy.Status.Ancestors
	want := &model.Status{Generation: 2, Parents: []model.ParentStatus{{Parent: gateway("new"), Conditions: accepted}, {Parent: gateway("kept"), Conditions: accepted}}}
	for _, c := range []struct {
		name string
		want *model.Status
		out  []gwv1.PolicyAncestorStatus
	}{
		{"changed", want, []gwv1.PolicyAncestorStatus{
			policy.Status.Ancestors[1], entry(m.controller, "kept", cond("Accepted", "True", "Accepted", 2, before)),
			entry(m.controller, "new", cond("Accepted", "True", "Accepted", 2, now)),
		}},
		{"none", &model.Status{Generation: 2, Conditions: accepted}, policy.Status.Ancestors[1:2]},
		{"no status", nil, policy.Status.Ancestors[1:2]},
	} {
		for _, obj := range []metav1.Object{policy, telemetry} {
			patch, err := m.patch(obj, c.want)
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ Status gwv1.PolicyStatus }
			if err := json.Unmarshal(patch, &got); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.out, got.Status.Ancestors); d != "" {
				t.Errorf("%T, %s: %s", obj, c.name, d)
			}
		}
	}
	for i := range 40 {
		want.Parents = append(want.Parents, model.ParentStatus{Parent: gateway(fmt.Sprint("g", i)), Conditions: accepted})
	}
	if got := m.ancestors(policy.Status.Ancestors, want); len(got) != maxAncestors || string(got[0].ControllerName) != "example.com/other" {
		t.Errorf("%d entries, the first of %s", len(got), got[0].ControllerName)
	}
}
