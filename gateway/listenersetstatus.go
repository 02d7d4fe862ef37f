package gateway

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// listenerSetUnits make the status of a ListenerSet. What it adds to the model is in the rows of its Gateway.
var listenerSetUnits = unitKind{
	name: "ListenerSet", stage: stageModel, compute: listenerSetStatus,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.ListenerSet] { return o.ListenerSets }),
}

// gatewayOf returns the Gateway of ours that a ListenerSet names, nil if there is none.
func (v *view) gatewayOf(set *gwv1.ListenerSet) *gwv1.Gateway {
	key, ok := kube.GatewayOfListenerSet(set)
	if !ok {
		return nil
	}
	if gw, ok := v.objs.Gateways.Get(v.Snapshot, key); ok && v.ours(gw) {
		return gw
	}
	return nil
}

func listenerSetStatus(v *view, key string) ([]output, bool) {
	set, ok := v.objs.ListenerSets.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	version := listenerSetVersion(set)
	s := &model.Status{Object: version.ObjectRef, Generation: set.Generation}
	gw, merged := v.gatewayOf(set), v.listenersOf(version.ObjectRef)
	switch {
	case gw == nil && v.lostGateway(set):
		s.Conditions = listenerSetConditions(no(model.ConditionAccepted, string(gwv1.ListenerSetReasonParentNotAccepted), "there is no such Gateway"))
	case gw == nil || merged == nil || !v.st.ServesGateways(v.Snapshot):
		return nil, true
	case !merged.refused.ok():
		s.Conditions = listenerSetConditions(merged.refused.condition(model.ConditionAccepted, ""))
	default:
		v.listenerSetListeners(s, gw, merged.clone())
	}
	return []output{v.status(s)}, true
}

// lostGateway reports whether the Gateway that a ListenerSet names is not there, and nobody else can be meant to say so: the
// manifests are ours alone, or the ListenerSet was accepted while the Gateway was there.
func (v *view) lostGateway(set *gwv1.ListenerSet) bool {
	key, ok := kube.GatewayOfListenerSet(set)
	if !ok {
		return false
	}
	if _, there := v.objs.Gateways.Get(v.Snapshot, key); there {
		return false
	}
	return v.cfg.Addresses == AddressesOfNode || meta.IsStatusConditionTrue(set.Status.Conditions, model.ConditionAccepted)
}

// listenerSetConditions are those of a ListenerSet that is not accepted.
func listenerSetConditions(accepted model.Condition) []model.Condition {
	programmed := accepted
	programmed.Type = model.ConditionProgrammed
	if accepted.Reason == string(gwv1.ListenerSetReasonParentNotAccepted) {
		programmed.Reason = reasonParentNotProgrammed
	}
	return []model.Condition{accepted, programmed}
}

// reasonParentNotProgrammed is a reason of the API that has no constant.
const reasonParentNotProgrammed = "ParentNotProgrammed"

// listenerSetListeners fills in the status of a ListenerSet whose listeners a Gateway serves.
func (v *view) listenerSetListeners(s *model.Status, gw *gwv1.Gateway, merged *parentListeners) {
	b := newGatewayBuilder(v, gw)
	b.certified(merged.listeners)
	rejected := v.rejected(merged.parent.ObjectRef, merged.parent.Generation)
	var bad []string
	good := 0
	for _, l := range merged.listeners {
		for a := range v.attachments.By(v.Snapshot, byListener, l.key) {
			if !a.closed {
				b.attached[l.key]++
			}
		}
		s.Listeners = append(s.Listeners, b.listenerStatus(l, v.rejectedOf(merged.parent.ObjectRef, merged.parent.Generation, b.concerns(l))))
		if b.good(l) {
			good++
		}
		if !b.good(l) || !l.refs.ok() {
			bad = append(bad, l.name)
		}
	}
	invalid := "listeners that are not valid: " + strings.Join(bad, ", ")
	if good == 0 {
		s.Conditions = listenerSetConditions(no(model.ConditionAccepted, string(gwv1.ListenerSetReasonListenersNotValid), invalid))
		return
	}
	accepted, programmed := yes(model.ConditionAccepted, string(gwv1.ListenerSetReasonAccepted)), yes(model.ConditionProgrammed, string(gwv1.ListenerSetReasonProgrammed))
	if len(bad) > 0 {
		accepted.Reason, accepted.Message = string(gwv1.ListenerSetReasonListenersNotValid), invalid
	}
	switch {
	case !b.assigned.programmed.ok() || len(b.model.Addresses) == 0:
		programmed = no(model.ConditionProgrammed, reasonParentNotProgrammed, "Gateway "+kube.Key(gw)+" has no address; see its status")
	case rejected != "":
		programmed = no(model.ConditionProgrammed, string(gwv1.ListenerSetReasonInvalid), rejected)
	}
	s.Conditions = []model.Condition{accepted, programmed}
}

// attachedSets counts the ListenerSets of a Gateway that are accepted: one of their listeners is good.
func (b *gatewayBuilder) attachedSets() int {
	n := 0
	for _, p := range b.sets {
		if slices.ContainsFunc(p.listeners, b.good) {
			n++
		}
	}
	return n
}
