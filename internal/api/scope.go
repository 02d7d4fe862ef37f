package api

import (
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
)

// Scope says whose rows a reader may see: all, with what is the node's own; or those of some namespaces.
type Scope struct {
	All        bool     `json:"all,omitempty"`
	Namespaces []string `json:"namespaces,omitempty"` // sorted
}

func (s Scope) allows(namespace string) bool {
	if s.All {
		return true
	}
	_, ok := slices.BinarySearch(s.Namespaces, namespace)
	return ok && namespace != ""
}

func (s Scope) allowsKey(key string) bool {
	ns, _ := model.SplitKey(key)
	return s.allows(ns)
}

// keep returns the items of which one part is allowed.
func keep[T any](list []T, allowed func(T) bool) []T {
	out := []T{}
	for _, v := range list {
		if allowed(v) {
			out = append(out, v)
		}
	}
	return out
}

// For returns what a reader may see of a status: of the node's own parts nothing unless he may see all.
func (s *Status) For(scope Scope) Status {
	if scope.All {
		return *s
	}
	out := Status{
		Synced:    s.Synced,
		Workloads: keep(s.Workloads, func(w Workload) bool { return scope.allows(w.Namespace) }),
		Gateways:  gatewaysFor(s.Gateways, scope), Identities: identitiesFor(s.Identities, scope),
		Rejections: keep(s.Rejections, func(r *model.Rejection) bool {
			return len(r.Objects) > 0 && !slices.ContainsFunc(r.Objects, func(o model.ObjectVersion) bool { return !scope.allows(o.Namespace) })
		}),
		Troubles: keep(s.Troubles, func(t Trouble) bool { return scope.allows(t.Object.Namespace) }),
	}
	if s.Folder != nil {
		out.Folder = &Folder{Loaded: s.Folder.Loaded, Problems: keep(s.Folder.Problems, func(p Problem) bool {
			return scope.allows(p.Object.Namespace)
		})}
		for i := range out.Folder.Problems {
			out.Folder.Problems[i].File, out.Folder.Problems[i].Line = "", 0
		}
	}
	return out
}

// listFor returns what a reader may see of a list of /v1/config/<what>.
func listFor(list any, scope Scope) any {
	if scope.All {
		return list
	}
	switch l := list.(type) {
	case []*model.Service:
		return keep(l, func(s *model.Service) bool { return scope.allows(s.Namespace) })
	case []*model.RouteTable:
		return routesFor(l, scope)
	case []*model.Endpoints:
		return endpointsFor(l, scope)
	case []Identity:
		return identitiesFor(l, scope)
	case []Certificate:
		return keep(l, func(c Certificate) bool { return scope.allowsKey(certificateKey(c)) })
	case []WorkloadPolicy:
		return keep(l, func(p WorkloadPolicy) bool { return scope.allowsKey(p.Workload) })
	case []*model.Gateway:
		return gatewaysFor(l, scope)
	case []*model.Status:
		return keep(l, func(s *model.Status) bool { return scope.allows(s.Object.Namespace) })
	}
	return []any{}
}

// routesFor leaves of each table the rules of the reader's routes, and those of his Services and Gateways that are of no route.
// A table of somebody else's Gateway or Service is there if it has one of his rules.
func routesFor(list []*model.RouteTable, scope Scope) []*model.RouteTable {
	out := []*model.RouteTable{}
	for _, t := range list {
		own := scope.allowsKey(routeTableKey(t))
		table := *t
		table.ListenerSets, table.VirtualHosts = setsFor(t.ListenerSets, scope), nil
		for _, h := range t.VirtualHosts {
			h.Rules = keep(h.Rules, func(r model.Rule) bool {
				return scope.allows(r.Route.Namespace) || own && r.Route.Name == "" && (r.CallerNamespace == "" || scope.allows(r.CallerNamespace))
			})
			if len(h.Rules) > 0 {
				table.VirtualHosts = append(table.VirtualHosts, h)
			}
		}
		if own || len(table.VirtualHosts) > 0 {
			out = append(out, &table)
		}
	}
	return out
}

func setsFor(l model.ListenerSets, scope Scope) model.ListenerSets {
	l.Sets = keep(l.Sets, func(o model.ObjectVersion) bool { return scope.allows(o.Namespace) })
	return l
}

// endpointsFor leaves out what pods of other namespaces are: who writes an EndpointSlice may name any address.
func endpointsFor(list []*model.Endpoints, scope Scope) []*model.Endpoints {
	out := []*model.Endpoints{}
	for _, e := range list {
		if !scope.allowsKey(e.Service) {
			continue
		}
		shown := *e
		shown.Backends = slices.Clone(e.Backends)
		for i, b := range shown.Backends {
			if b.Workload != "" && !scope.allowsKey(b.Workload) {
				shown.Backends[i] = model.Endpoint{Address: b.Address, NotGranted: b.NotGranted, Terminating: b.Terminating}
			}
		}
		out = append(out, &shown)
	}
	return out
}

func identitiesFor(list []Identity, scope Scope) []Identity {
	out := []Identity{}
	for _, i := range list {
		if scope.allows(i.Identity.Namespace()) {
			i.Workloads, i.Gateways = keep(i.Workloads, scope.allowsKey), keep(i.Gateways, scope.allowsKey)
			out = append(out, i)
		}
	}
	return out
}

// gatewaysFor leaves of the reader's Gateways what is of other namespaces out: the listeners of their ListenerSets, and their
// routes.
func gatewaysFor(list []*model.Gateway, scope Scope) []*model.Gateway {
	out := []*model.Gateway{}
	for _, g := range list {
		if !scope.allows(g.Namespace) {
			continue
		}
		shown := *g
		shown.Ports = slices.Clone(g.Ports)
		for i, p := range shown.Ports {
			p.ListenerSets, p.Listeners = setsFor(p.ListenerSets, scope), nil
			for _, l := range g.Ports[i].Listeners {
				if set, _, of := strings.Cut(l.Name, "/"); of && !scope.allows(set) {
					continue
				}
				l.Streams = keep(l.Streams, func(s model.GatewayStream) bool { return scope.allows(s.Route.Namespace) })
				p.Listeners = append(p.Listeners, l)
			}
			shown.Ports[i] = p
		}
		out = append(out, &shown)
	}
	return out
}
