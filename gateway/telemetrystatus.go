package gateway

import (
	"fmt"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// telemetryPolicyUnits make the status of XTelemetryPolicies.
var telemetryPolicyUnits = unitKind{
	name: "XTelemetryPolicy", stage: stageModel, compute: telemetryStatus,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwxv1.XTelemetryPolicy] { return o.TelemetryPolicies }),
}

// telemetryStatus has an entry for each Gateway among the targets that is of the mesh, or is not there. Where there is none the
// conditions are the policy's own, which a cluster's object cannot show.
func telemetryStatus(v *view, key string) ([]output, bool) {
	p, ok := v.objs.TelemetryPolicies.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	r := v.readTelemetry(p)
	ref := telemetryRef(p)
	if m := v.rejected(ref, p.Generation); m != "" {
		r.invalid("%s", m)
	}
	s := &model.Status{Object: ref, Generation: p.Generation}
	others := 0
	for _, name := range kube.TelemetryGateways(p) {
		at := model.Key(p.Namespace, name)
		gw, ok := v.objs.Gateways.Get(v.Snapshot, at)
		if ok && !v.ours(gw) {
			others++
			continue
		}
		s.Parents = append(s.Parents, model.ParentStatus{Parent: gatewayRefOf(at), Conditions: r.conditions(v.telemetryConflict(at, key, ok))})
	}
	if len(s.Parents) == 0 && others == 0 {
		s.Conditions = r.conditions(problems{})
	}
	if len(s.Parents) == 0 && len(s.Conditions) == 0 {
		return nil, true // all of its Gateways are another controller's
	}
	return []output{v.status(s)}, true
}

// telemetryConflict says why a policy cannot be in force for a Gateway.
func (v *view) telemetryConflict(gateway, policy string, there bool) problems {
	var t problems
	if !there {
		t.add(string(gwv1.PolicyReasonTargetNotFound), fmt.Sprintf("there is no Gateway %q", short(gateway)))
		return t
	}
	if c, ok := v.telemetry.Get(v.Snapshot, gateway); ok && c.policy != policy {
		t.add(string(gwv1.PolicyReasonConflicted), fmt.Sprintf("XTelemetryPolicy %s goes before it for Gateway %s", c.policy, gateway))
	}
	return t
}

// conditions are those for one Gateway; t says what keeps the policy from it.
func (r *readTelemetry) conditions(t problems) []model.Condition {
	for _, m := range r.accepted.messages {
		t.add(r.accepted.reason, m)
	}
	out := []model.Condition{
		t.condition(model.ConditionAccepted, string(gwv1.PolicyReasonAccepted)),
		r.refs.condition(model.ConditionResolvedRefs, string(gwxv1.TelemetryPolicyReasonResolvedRefs)),
	}
	if out[0].Status && !r.dropped.ok() {
		out = append(out, model.Condition{
			Type: model.ConditionPartiallyInvalid, Status: true, Reason: r.dropped.reason, Message: strings.Join(r.dropped.messages, "; "),
		})
	}
	return out
}
