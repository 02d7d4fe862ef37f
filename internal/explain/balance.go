package explain

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// balance spreads connections over the endpoints of a Service's port, or what a TCPRoute leads to, as the kernel does.
func (e *explanation) balance(s *model.Service) {
	key := model.PortKey(s.Namespace, s.Name, e.to.Port, model.TCP)
	if d, ok := e.State.Divisions.Get(e.Snapshot, key); ok {
		e.divide(s, d)
		return
	}
	e.endpoints(s)
}

// endpoints spreads connections over the endpoints of a Service's port.
func (e *explanation) endpoints(s *model.Service) {
	key := model.PortKey(s.Namespace, s.Name, e.to.Port, model.TCP)
	var all []model.Endpoint
	if row, ok := e.State.Endpoints.Get(e.Snapshot, key); ok {
		all = reachable(s, row.Backends)
	}
	if len(all) == 0 {
		e.end(Failing, 0, "Service %s has no ready endpoint for port %d", s.Key(), e.to.Port)
		e.answer.Changes = append(e.answer.Changes, "a pod that the Service selects must become ready (weft config endpoints)")
		return
	}
	e.spread(fmt.Sprintf("%s:%d", s.Key(), e.to.Port), all, 1)
}

// reachable returns the endpoints to which connections to a Service's first address lead.
func reachable(s *model.Service, all []model.Endpoint) []model.Endpoint {
	if len(s.Addresses) > 0 {
		v6 := s.Addresses[0].Unmap().Is6()
		all = slices.DeleteFunc(slices.Clone(all), func(b model.Endpoint) bool { return b.Address.Addr().Unmap().Is6() != v6 })
	}
	return serving(all)
}

// spread divides a share of the connections among endpoints.
func (e *explanation) spread(service string, all []model.Endpoint, share float64) {
	for _, b := range all {
		e.bytes(End{Service: service, Share: share / float64(len(all)), Address: b.Address}, e.workloadOf(&b))
	}
}

// divide follows connections to what a TCPRoute divides them among, or a TLSRoute.
func (e *explanation) divide(s *model.Service, d *model.Division) {
	if d.ByName() {
		e.byName(s, d)
		return
	}
	e.decides(d.Route.Namespace)
	e.note("%s divides the connections, in the kernel", d.Route)
	e.shares(s, d)
}

// byName follows a connection to what the TLSRoute of its server name divides it among.
func (e *explanation) byName(s *model.Service, d *model.Division) {
	if !e.EnvoyServes(e.source) {
		e.note("the node's Envoy does not serve Pod %s: its TLSRoutes do not apply", e.source.Key())
		e.endpoints(s)
		return
	}
	e.used = e.used || !e.answer.Assumed
	h := e.streamHost(d.Names, model.MeshStreamKey)
	if h == nil {
		e.end(Failing, 0, "no TLSRoute of Service %s takes the server name %q: the connection is closed", s.Key(), hostname(e.request.Host))
		e.answer.Changes = append(e.answer.Changes, "ask with a host that a TLSRoute has (weft describe service "+s.Key()+")")
		return
	}
	rule := h.Rules[0]
	e.decides(rule.Route.Namespace)
	e.note("%s takes TLS connections with the server name %s", rule.Route, h.Hosts[0])
	named := &model.Division{Route: rule.Route}
	for _, b := range rule.Backends {
		share := model.Share{Backend: b}
		if row, ok := e.State.Endpoints.Get(e.Snapshot, model.PortKey(b.Namespace, b.Name, b.Port, model.TCP)); ok && !b.Invalid {
			share.Endpoints = row.Backends
		}
		named.Shares = append(named.Shares, share)
	}
	e.shares(s, named)
}

// streamHost returns the one of the names that the request's host takes, with the backends of its route; nil if none does.
func (e *explanation) streamHost(names []model.GatewayStream, key func(model.ObjectRef) string) *model.VirtualHost {
	var hosts []model.VirtualHost
	for _, n := range names {
		rule := model.Rule{Route: n.Route}
		if r, ok := e.State.StreamRoutes.Get(e.Snapshot, key(n.Route)); ok {
			rule.Backends, rule.Generation = r.Backends, r.Generation
		}
		hosts = append(hosts, model.VirtualHost{Hosts: []string{cmp.Or(n.Hostname, "*")}, Rules: []model.Rule{rule}})
	}
	return virtualHost(hosts, e.request.Host)
}

// shares follows connections to the backends of a Division.
func (e *explanation) shares(s *model.Service, d *model.Division) {
	total := 0.0
	for _, share := range d.Shares {
		total += float64(share.Weight)
	}
	if total == 0 {
		e.end(Failing, 0, "%s has no backend: connections are refused", d.Route)
		return
	}
	for _, share := range d.Shares {
		name, part := fmt.Sprintf("%s/%s:%d", share.Namespace, share.Name, share.Port), float64(share.Weight)/total
		all := reachable(s, share.Endpoints)
		if len(all) > 0 {
			e.spread(name, all, part)
			continue
		}
		end := End{Service: name, Share: part, Way: ByKernel, Decision: Decision{
			Verdict: Failing, Why: "the backend has no ready endpoint, and its share is refused", AtSource: true,
			Changes: []string{"a pod of Service " + model.Key(share.Namespace, share.Name) + " must become ready (weft config endpoints)"},
		}}
		if share.Invalid {
			end.Why, end.Changes = "the backend is not valid: it does not exist", []string{"see the route's condition ResolvedRefs (weft config status)"}
		}
		e.answer.Ends = append(e.answer.Ends, end)
	}
}
