package gateway

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// TLSRoutes with Services as parents. All that have a port for the same callers share it: each has its names, and of two for one
// name the older has it. A connection without a name of one of them is closed, as a request without a route gets a 404 (GEP-1294).

// namedDivisionUnits join the TLSRoutes of the ports of a Service.
var namedDivisionUnits = unitKind{
	name: "names of TLSRoutes", stage: stageDivisions,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*corev1.Service] { return o.Services }),
	compute: func(v *view, key string) ([]output, bool) {
		svc, ok := v.objs.Services.Get(v.Snapshot, key)
		if !ok {
			return nil, false
		}
		streams, ok := v.streamPorts.Get(v.Snapshot, key)
		if !ok {
			return nil, true
		}
		var outs []output
		for at := range streams.named {
			if !streams.byName(at) {
				continue
			}
			d := &model.Division{Service: key, Port: at.port, CallerNamespace: at.caller, Names: v.namesOf(divisionTable(svc, at.port, at.caller))}
			if d.ByName() {
				outs = append(outs, out(v.st.Divisions, d.Key(), d))
			}
		}
		return outs, true
	},
}

// namesOf returns the names of the TLSRoutes that are attached to a port, the more specific ones first.
func (v *view) namesOf(table string) []model.GatewayStream {
	first := map[string]*attachment{}
	for a := range v.attachments.By(v.Snapshot, byTable, table) {
		for _, b := range a.bindings {
			if b.table != table {
				continue
			}
			for _, h := range b.hosts {
				if o := first[h.name]; o == nil || a.compareAge(o) < 0 {
					first[h.name] = a
				}
			}
		}
	}
	var out []model.GatewayStream
	for _, h := range slices.SortedFunc(maps.Keys(first), compareHosts) {
		s := model.GatewayStream{Route: first[h].route}
		if h != "*" {
			s.Hostname = h
		}
		out = append(out, s)
	}
	return out
}

// names reports whether TLSRoutes have a port, for all callers or for some.
func (p *streamPorts) names(port uint16) bool {
	if p == nil {
		return false
	}
	for at := range p.named {
		if at.port == port && p.byName(at) {
			return true
		}
	}
	return false
}

// meshStream says what the connections of Services that a TLSRoute takes are divided among.
func (v *view) meshStream(a *attachment, generation int64) []output {
	i := slices.IndexFunc(a.bindings, func(b binding) bool { return b.parent.Kind == "Service" })
	if i < 0 || a.route.Kind != "TLSRoute" {
		return nil
	}
	s := &model.StreamRoute{Route: a.route, Generation: generation, Mesh: true, Backends: a.bindings[i].rules[0].Backends}
	return []output{out(v.st.StreamRoutes, s.Key(), s)}
}
