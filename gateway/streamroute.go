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

// Routes of connections: a TLSRoute chooses by the name in the TLS handshake, a TCPRoute takes all of a listener, and so does a
// UDPRoute, of datagrams. They have one rule. A TCPRoute and a TLSRoute attach to Services too (division.go), a UDPRoute to Gateways alone.

var tlsRouteUnits = unitKind{
	name: "TLSRoute", stage: stageRoutes,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.TLSRoute] { return o.TLSRoutes }),
	compute: func(v *view, key string) ([]output, bool) {
		r, ok := v.objs.TLSRoutes.Get(v.Snapshot, key)
		if !ok {
			return nil, false
		}
		return v.attachRoute(tlsRouteInput(r)), true
	},
}

var tcpRouteUnits = unitKind{
	name: "TCPRoute", stage: stageRoutes,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.TCPRoute] { return o.TCPRoutes }),
	compute: func(v *view, key string) ([]output, bool) {
		r, ok := v.objs.TCPRoutes.Get(v.Snapshot, key)
		if !ok {
			return nil, false
		}
		return v.attachRoute(tcpRouteInput(r)), true
	},
}

var udpRouteUnits = unitKind{
	name: "UDPRoute", stage: stageRoutes,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.UDPRoute] { return o.UDPRoutes }),
	compute: func(v *view, key string) ([]output, bool) {
		r, ok := v.objs.UDPRoutes.Get(v.Snapshot, key)
		if !ok {
			return nil, false
		}
		return v.attachRoute(udpRouteInput(r)), true
	},
}

// Each name of a TLSRoute is a filter chain of Envoy, which takes as much as many matches.
const matchesOfChain = 16

var tlsDemandUnits = unitKind{
	name: "demand of a TLSRoute", stage: stageDemands,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.TLSRoute] { return o.TLSRoutes }),
	compute: func(v *view, key string) ([]output, bool) {
		r, ok := v.objs.TLSRoutes.Get(v.Snapshot, key)
		if !ok {
			return nil, false
		}
		return append(v.routeDemand(tlsRouteInput(r), load{matches: matchesOfChain}, 0), v.kernelDemand(tlsRouteInput(r), 0)...), true
	},
}

func tlsRouteInput(r *gwv1.TLSRoute) route {
	return route{
		ref:        streamRouteRef("TLSRoute", r.Namespace, r.Name),
		generation: r.Generation,
		created:    r.CreationTimestamp.Time,
		parents:    r.Spec.ParentRefs,
		hostnames:  r.Spec.Hostnames,
		compile: func(res *resolver) *compiled {
			return compileRules(res, kube.UnknownFieldsOf(r), r.Spec.Rules, func(res *resolver, i int, in gwv1.TLSRouteRule) ([]rankedRule, string, *fault) {
				return streamRule(res, i, in.Name, in.BackendRefs)
			})
		},
	}
}

func tcpRouteInput(r *gwv1.TCPRoute) route {
	return route{
		ref:        streamRouteRef("TCPRoute", r.Namespace, r.Name),
		generation: r.Generation,
		created:    r.CreationTimestamp.Time,
		parents:    r.Spec.ParentRefs,
		compile: func(res *resolver) *compiled {
			return compileRules(res, kube.UnknownFieldsOf(r), r.Spec.Rules, func(res *resolver, i int, in gwv1.TCPRouteRule) ([]rankedRule, string, *fault) {
				return streamRule(res, i, in.Name, in.BackendRefs)
			})
		},
	}
}

func udpRouteInput(r *gwv1.UDPRoute) route {
	return route{
		ref:        streamRouteRef("UDPRoute", r.Namespace, r.Name),
		generation: r.Generation,
		created:    r.CreationTimestamp.Time,
		parents:    r.Spec.ParentRefs,
		compile: func(res *resolver) *compiled {
			return compileRules(res, kube.UnknownFieldsOf(r), r.Spec.Rules, func(res *resolver, i int, in gwv1.UDPRouteRule) ([]rankedRule, string, *fault) {
				return streamRule(res, i, in.Name, in.BackendRefs)
			})
		},
	}
}

func streamRouteRef(kind, namespace, name string) model.ObjectRef {
	return model.ObjectRef{Group: gwv1.GroupName, Kind: kind, Namespace: namespace, Name: name}
}

// streams reports whether a route is one of connections or datagrams.
func (r *route) streams() bool {
	return r.ref.Kind == "TLSRoute" || r.ref.Kind == "TCPRoute" || r.ref.Kind == "UDPRoute"
}

// streamRule reads a rule. Nothing distinguishes the connections of a second one.
func streamRule(res *resolver, i int, name *gwv1.SectionName, refs []gwv1.BackendRef) ([]rankedRule, string, *fault) {
	at := fmt.Sprintf("rules[%d]", i)
	rule := model.Rule{Route: res.route, Index: i, Name: orDefault(name, "")}
	if i > 0 {
		return nil, rule.Name, unsupported("%s: a %s has one rule", at, res.route.Kind)
	}
	if f := ruleName(at, name); f != nil {
		return nil, rule.Name, f
	}
	if len(res.unknown) > 0 {
		return []rankedRule{{Rule: blocked(rule)}}, rule.Name, nil
	}
	in := make([]gwv1.HTTPBackendRef, len(refs))
	for j, b := range refs {
		in[j] = gwv1.HTTPBackendRef{BackendRef: b}
	}
	if f := res.backends(&rule, at, in, false, false); f != nil {
		return nil, rule.Name, f
	}
	return []rankedRule{{Rule: rule}}, rule.Name, nil
}

// streams returns the routes of a listener for connections or datagrams: one for each name, of two for one name that with the more
// specific hostname of its own, else the older; the more specific names first. A name that a more specific listener of the port
// has is that one's.
func (b *gatewayBuilder) streams(l *listener, all []*listener) []model.GatewayStream {
	type claim struct {
		by *attachment
		of string // the route's hostname
	}
	first, names := map[string]claim{}, hostnamesOf(all)
	for a := range b.v.attachments.By(b.v.Snapshot, byTable, l.table) {
		for _, s := range a.bindings {
			if s.table != l.table {
				continue
			}
			if !a.closed {
				b.attached[l.key]++
			}
			for _, h := range s.hosts {
				o, taken := first[h.name]
				if isolated(h.name, l, names) || taken && cmp.Or(compareHosts(h.of, o.of), a.compareAge(o.by)) >= 0 {
					continue
				}
				first[h.name] = claim{a, h.of}
			}
		}
	}
	var out []model.GatewayStream
	for _, h := range slices.SortedFunc(maps.Keys(first), compareHosts) {
		s := model.GatewayStream{Route: first[h].by.route}
		if h != "*" {
			s.Hostname = h
		}
		out = append(out, s)
	}
	return out
}
