package describe

import (
	"fmt"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
)

// telemetryProblems says which policies of a Gateway fail, and what keeps its spans from their collector.
func (d *description) telemetryProblems(g *model.Gateway) {
	for s := range d.State.Statuses.All(d.Snapshot) {
		if s.Object.Kind != "XTelemetryPolicy" || s.Object.Namespace != g.Namespace {
			continue
		}
		for _, p := range s.Parents {
			if p.Parent.Name == g.Name {
				d.policyFailures(s.Object, p.Conditions)
			}
		}
	}
	if g.Tracing == nil || g.Tracing.Collector == nil || !d.State.ServesGateways(d.Snapshot) {
		return
	}
	to := g.Tracing.Collector
	name := fmt.Sprintf("%s/%s:%d", to.Namespace, to.Service, to.Port)
	if !d.sees(to.Namespace) {
		return
	}
	tls, byTLS := d.State.BackendTLS.Get(d.Snapshot, to.Key())
	if byTLS && tls.Invalid {
		d.problem(fmt.Sprintf("spans go nowhere: BackendTLSPolicy %s of collector %s cannot be followed", model.Key(tls.Policy.Namespace, tls.Policy.Name), name), "see the conditions of that policy")
		return
	}
	var strict []string
	ready := 0
	if row, ok := d.State.Endpoints.Get(d.Snapshot, to.Key()); ok {
		for _, e := range row.Backends {
			switch {
			case e.NotGranted:
			case e.MTLS == model.MTLSStrict:
				strict = append(strict, e.Workload)
			default:
				ready++
			}
		}
	}
	switch {
	case len(strict) > 0:
		d.problem(fmt.Sprintf("collector %s: pods that are strict refuse spans, for Envoy has no identity to send them by: %s", name, strings.Join(strict[:min(len(strict), 3)], ", ")), "label the pods weft.io/mtls: permissive")
	case ready == 0:
		d.problem("collector "+name+" has no endpoint that takes spans: they are dropped", "see whether its pods are ready (weft describe service)")
	}
}

// policyFailures takes over the conditions of a policy that fail for the object.
func (d *description) policyFailures(policy model.ObjectRef, all []model.Condition) {
	for _, c := range all {
		if c.Fails() {
			d.problem(fmt.Sprintf("%s %s: %s: %s: %s", policy.Kind, model.Key(policy.Namespace, policy.Name), c.Type, c.Reason, c.Message), remedies[c.Reason])
		}
	}
}
