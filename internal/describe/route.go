package describe

import (
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// Route is what the mesh makes of a route.
type Route struct {
	// Streams are the listeners, and the ports of Services, that use a TLSRoute, TCPRoute or UDPRoute.
	Streams []Stream `json:"streams,omitempty"`
	// Backends are those of its rules, each once.
	Backends []Backend `json:"backends,omitempty"`
}

func (d *description) route(kind, namespace, name string) bool {
	known := d.status(kind, namespace, name)
	is := func(r model.ObjectRef) bool { return r.Kind == kind && r.Namespace == namespace && r.Name == name }
	for t := range d.State.RouteTables.All(d.Snapshot) {
		d.table(t, func(r *model.Rule) bool { return is(r.Route) })
	}
	out := &Route{}
	for g := range d.State.Gateways.All(d.Snapshot) {
		out.Streams = append(out.Streams, d.streams(g, is)...)
	}
	out.Streams = append(out.Streams, d.divisions(func(_ string, r model.ObjectRef) bool { return is(r) })...)
	if !known && len(d.out.Rules) == 0 && len(out.Streams) == 0 {
		return false
	}
	d.out.Object.Kind, d.out.Route = kind, out
	d.ruleBackends(out)
	d.routeProblems(out)
	return true
}

// ruleBackends collects the backends of the rules. Those of streams are with them.
func (d *description) ruleBackends(out *Route) {
	for i := range d.out.Rules {
		for b := range d.out.Rules[i].Rule.AllBackends() {
			if !slices.ContainsFunc(out.Backends, func(o Backend) bool { return o.Namespace == b.Namespace && o.Name == b.Name && o.Port == b.Port }) {
				out.Backends = append(out.Backends, d.backends([]model.Backend{*b}, model.TCP)...)
			}
		}
	}
}

func (d *description) routeProblems(r *Route) {
	d.failures()
	if len(d.out.Rules) == 0 && len(r.Streams) == 0 && len(d.out.Problems) == 0 {
		d.problem("no rule of it is in effect", "see its parents: the listener or Service port must exist and allow it")
	}
	d.ruleProblems()
	d.streamProblems(r.Streams)
	d.rejections(d.out.Object)
}
