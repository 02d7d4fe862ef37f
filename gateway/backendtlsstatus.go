package gateway

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// maxAncestors is the limit of the schema. Ancestors past it are left out.
const maxAncestors = 16

// tlsPolicyUnits make the status of BackendTLSPolicies.
var tlsPolicyUnits = unitKind{
	name: "BackendTLSPolicy", stage: stageModel, compute: tlsPolicyStatus,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.BackendTLSPolicy] { return o.BackendTLSPolicies }),
}

// tlsPolicyStatus has an entry for each ancestor: a Gateway or a Service whose routes lead to a target. Where there is none
// the conditions are the policy's own, which a cluster's object cannot show.
func tlsPolicyStatus(v *view, key string) ([]output, bool) {
	p, ok := v.objs.BackendTLSPolicies.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	r := v.readTLSPolicy(p)
	accepted := v.tlsConflicts(p)
	for _, m := range r.accepted.messages {
		accepted.add(r.accepted.reason, m)
	}
	ref := tlsPolicyRef(p.Namespace, p.Name)
	if m := v.rejected(ref, p.Generation); m != "" {
		accepted.add(string(gwv1.PolicyReasonInvalid), m)
	}
	s := &model.Status{Object: ref, Generation: p.Generation}
	conditions := []model.Condition{
		accepted.condition(model.ConditionAccepted, string(gwv1.PolicyReasonAccepted)),
		r.refs.condition(model.ConditionResolvedRefs, string(gwv1.BackendTLSPolicyReasonResolvedRefs)),
	}
	for _, a := range v.tlsAncestors(p) {
		s.Parents = append(s.Parents, model.ParentStatus{Parent: a, Conditions: conditions})
	}
	if len(s.Parents) == 0 {
		s.Conditions = conditions
	}
	return []output{v.status(s)}, true
}

// tlsConflicts notes targets that are not there, and those for which an older policy is in force.
func (v *view) tlsConflicts(p *gwv1.BackendTLSPolicy) *problems {
	var t problems
	for _, target := range tlsTargets(p) {
		at := model.Key(p.Namespace, target.service)
		svc, ok := v.objs.Services.Get(v.Snapshot, at)
		if !ok {
			t.add(string(gwv1.PolicyReasonTargetNotFound), fmt.Sprintf("there is no Service %q", short(at)))
			continue
		}
		var ignored problems
		if target.section != "" && !slices.ContainsFunc(servicePorts(svc, &ignored), func(s model.ServicePort) bool {
			return s.Name == target.section && s.Protocol == model.TCP
		}) {
			t.add(string(gwv1.PolicyReasonTargetNotFound), fmt.Sprintf("Service %s has no TCP port named %q", at, short(target.section)))
			continue
		}
		if c, ok := v.tlsChoices.Get(v.Snapshot, at); ok && c.oldest[target.section] != kube.Key(p) {
			t.add(string(gwv1.PolicyReasonConflicted), fmt.Sprintf("BackendTLSPolicy %s goes before it for the same ports of Service %s", c.oldest[target.section], at))
		}
	}
	if len(tlsTargets(p)) < len(p.Spec.TargetRefs) {
		t.add(string(gwv1.PolicyReasonInvalid), fmt.Sprintf("targetRefs: Services alone are supported, and at most %d", kube.MaxPolicyTargets))
	}
	return &t
}

// tlsAncestors returns the Gateways and Services whose routes lead to a port that a policy selects, Gateways first.
func (v *view) tlsAncestors(p *gwv1.BackendTLSPolicy) []model.ObjectRef {
	found := map[model.ObjectRef]bool{}
	for _, target := range tlsTargets(p) {
		key := model.Key(p.Namespace, target.service)
		svc, ok := v.objs.Services.Get(v.Snapshot, key)
		if !ok {
			continue
		}
		var ignored problems
		ports := map[uint16]bool{}
		for _, port := range servicePorts(svc, &ignored) {
			if port.Protocol == model.TCP && (target.section == "" || target.section == port.Name) {
				ports[port.Port] = true
			}
		}
		for a := range v.attachments.By(v.Snapshot, byBackend, key) {
			for i := range a.bindings {
				if b := &a.bindings[i]; !b.passthrough && b.leadsTo(p.Namespace, target.service, ports) {
					found[b.parent] = true
				}
			}
		}
	}
	all := slices.SortedFunc(maps.Keys(found), func(a, b model.ObjectRef) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.String(), b.String()))
	})
	return all[:min(len(all), maxAncestors)]
}

// leadsTo reports whether a rule sends requests or copies of them to one of some ports of a Service.
func (b *binding) leadsTo(namespace, service string, ports map[uint16]bool) bool {
	for i := range b.rules {
		for be := range b.rules[i].AllBackends() {
			if !be.Invalid && be.Namespace == namespace && be.Name == service && ports[be.Port] {
				return true
			}
		}
	}
	return false
}

// backendServices returns the Services that the rules of an attachment lead to.
func (a *attachment) backendServices() []string {
	found := map[string]bool{}
	for i := range a.bindings {
		if i > 0 && len(a.bindings[i].rules) > 0 && len(a.bindings[i-1].rules) > 0 && &a.bindings[i].rules[0] == &a.bindings[i-1].rules[0] {
			continue // most bindings share their rules
		}
		for j := range a.bindings[i].rules {
			for be := range a.bindings[i].rules[j].AllBackends() {
				if !be.Invalid {
					found[model.Key(be.Namespace, be.Name)] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}
