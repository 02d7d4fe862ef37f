package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// connect follows the connection from the source, in the order of the kernel's program at connect().
func (e *explanation) connect() {
	switch {
	case e.to.gateway != nil:
		e.toGateway()
	case e.to.pod != nil:
		e.toPod()
	default:
		e.toService()
	}
}

// toPod: no Service is asked for.
func (e *explanation) toPod() {
	w := e.to.pod
	if len(w.Addresses)+len(w.Contested) == 0 {
		e.end(Failing, 0, "Pod %s has no address", w.Key())
		return
	}
	address := slices.Concat(w.Addresses, w.Contested)[0]
	e.bytes(End{Share: 1, Address: netip.AddrPortFrom(address, e.to.Port)}, w)
}

func (e *explanation) toService() {
	s := e.to.service
	port, ok := s.Port(e.to.Port)
	if !ok {
		e.end(Failing, 0, "Service %s has no TCP port %d: nothing is balanced there", s.Key(), e.to.Port)
		return
	}
	if len(s.Addresses) == 0 && len(s.Refused) > 0 {
		e.end(Failing, 0, "Service %s is over its namespace's budget and is not balanced; see its status", s.Key())
		return
	}
	if port.Detect {
		e.note("port %d does not say what it speaks: a connection that begins as HTTP does takes the routes, others go as bytes", port.Port)
	}
	key := model.PortKey(s.Namespace, s.Name, e.to.Port, model.TCP)
	if d, ok := e.State.Divisions.Get(e.Snapshot, model.DivisionKey(key, e.source.Namespace)); ok {
		e.note("the route is for callers in namespace %s", e.source.Namespace)
		e.divide(s, d)
		return
	}
	if port.L7 && len(s.Addresses) > 0 && !(port.Detect && e.answer.Assumed) {
		if e.EnvoyServes(e.source) {
			e.used = true
			e.requests(e.serviceTable(), e.source.Namespace, e.source.Identity)
			return
		}
		e.note("the node's Envoy does not serve Pod %s: its routes do not apply", e.source.Key())
	}
	e.balance(s)
}

// bytes chooses the way to an endpoint of a connection that no route applies to.
func (e *explanation) bytes(end End, to *model.Workload) {
	defer func() { e.answer.Ends = append(e.answer.Ends, end) }()
	if to != nil {
		end.Workload, end.Node, end.Local = to.Key(), to.Node, to.Local
	}
	end.Way = ByKernel
	source := e.source
	contested := to != nil && slices.Contains(to.Contested, end.Address.Addr())
	switch {
	case source.Identity == "" || to == nil || to.Identity == "" && !contested || to.Key() == source.Key():
	case contested:
		end.Decision = refusedBy("AddressConflict", "several pods claim the address %s, so nobody has an identity there", end.Address.Addr())
		end.AtSource = true
		return
	case e.Tunnel && !to.Policy.ByEnvoy(end.Address.Port()) && e.tunnelReaches(to) && e.TunnelServes(source):
		end.Way = ByTunnel
	case e.EnvoyServes(source):
		end.Way = ByHBONE
	case source.MTLS == model.MTLSStrict || to.MTLS == model.MTLSStrict:
		end.Decision = refusedBy("mTLS mode strict", "an end is strict, and neither weft tunnel nor Envoy listens in Pod %s", source.Key())
		end.AtSource = true
		end.Changes = []string{"see the faults of the source's node (weft status)"}
		return
	}
	end.Decision = e.arrive(&end, source.Identity)
}

// requests follows a request by the rules of a table, on behalf of a caller with an identity, "" for none.
func (e *explanation) requests(t *model.RouteTable, namespace string, identity model.Identity) {
	a := e.answer
	a.Route = findRule(t, e.request, namespace)
	if a.Route == nil {
		e.end(Failing, 404, "no rule matches the request")
		a.Changes = append(a.Changes, "a rule must match it: weft config routes lists those that there are")
		return
	}
	r := a.Route.Rule
	e.decides(r.Route.Namespace)
	switch {
	case r.Status != 0:
		e.end(Failing, r.Status, "the rule has nothing that may serve the request")
		return
	case r.Redirect != nil:
		e.end(Allowed, r.Redirect.Status, "the rule redirects the request")
		return
	}
	var total uint64
	for _, b := range r.Backends {
		total += uint64(b.Weight)
	}
	if total == 0 {
		e.end(Failing, 500, "the rule has no backend")
		return
	}
	for _, b := range r.Backends {
		if b.Weight > 0 {
			e.backend(b, float64(b.Weight)/float64(total), identity)
		}
	}
}

func (e *explanation) backend(b model.Backend, share float64, identity model.Identity) {
	a := e.answer
	name := fmt.Sprintf("%s/%s:%d", b.Namespace, b.Name, b.Port)
	none := func(status int, why, change string) {
		a.Ends = append(a.Ends, End{Service: name, Share: share, Way: ByEnvoy, Decision: Decision{
			Verdict: Failing, Status: status, Why: why, ByRequest: true, AtSource: true, Changes: []string{change},
		}})
	}
	if b.Invalid {
		none(500, "the backend is not valid: it does not exist, or no ReferenceGrant allows it", "see the route's condition ResolvedRefs (weft config status)")
		return
	}
	key := model.PortKey(b.Namespace, b.Name, b.Port, model.TCP)
	var notes []string
	switch t, ok := e.State.BackendTLS.Get(e.Snapshot, key); {
	case ok && t.Invalid:
		none(503, "BackendTLSPolicy "+model.Key(t.Policy.Namespace, t.Policy.Name)+" cannot be followed, and nothing is sent in the clear",
			"see the policy's condition Accepted (weft config status)")
		return
	case ok:
		notes = append(notes, fmt.Sprintf("to %s requests go by TLS, for BackendTLSPolicy %s: a certificate that does not fit is answered 503", name, model.Key(t.Policy.Namespace, t.Policy.Name)))
	}
	var all []model.Endpoint
	if row, ok := e.State.Endpoints.Get(e.Snapshot, key); ok {
		all = serving(slices.DeleteFunc(slices.Clone(row.Backends), func(ep model.Endpoint) bool { return ep.NotGranted }))
	}
	if len(all) == 0 {
		none(503, "the backend has no ready endpoint", "a pod of Service "+model.Key(b.Namespace, b.Name)+" must become ready (weft config endpoints)")
		return
	}
	for _, ep := range all {
		end := End{Service: name, Share: share / float64(len(all)), Address: ep.Address, Workload: ep.Workload, Node: ep.Node, Way: ByEnvoy}
		if w := e.workloadOf(&ep); w != nil {
			end.Workload, end.Node, end.Local = w.Key(), w.Node, w.Local
		}
		if ep.Identity != "" && identity != "" {
			end.Way, end.Identity = e.authenticatedRequests(&ep), ep.Identity
		}
		end.Decision = e.arrive(&end, identity)
		end.Notes = append(end.Notes, notes...)
		a.Ends = append(a.Ends, end)
	}
}

// authenticatedRequests returns how Envoy sends requests to an endpoint with an identity.
func (e *explanation) authenticatedRequests(ep *model.Endpoint) Way {
	if w := e.workloadOf(ep); w != nil && e.Tunnel && e.tunnelTakesRequests() && e.tunnelReaches(w) && !w.Policy.InspectsPort(ep.Address.Port()) {
		return ByEnvoyTunnel
	}
	return ByEnvoyHBONE
}

// arrive asks the destination's rules. It looks at the source's certificate first.
func (e *explanation) arrive(end *End, identity model.Identity) Decision {
	a := Arrival{From: e.source.Key(), To: end.Workload, Port: end.Address.Port(), Way: end.Way, Request: e.request}
	if end.Way.Authenticated() {
		a.Peer, end.Client = identity, identity
		if w := e.pod(end.Workload); w != nil && end.Identity == "" {
			end.Identity = w.Identity
		}
		if why := e.Certificate(identity, e.source.Local || e.to.gateway != nil); why != "" {
			return Decision{Verdict: Failing, AtSource: true, Why: why, Changes: []string{"see the faults of the source's node (weft status)"}}
		}
	}
	d := e.Arrive(a)
	if end.Way.requests() {
		d.ByRequest = true
	}
	return d
}

// Certificate says why an identity of this node cannot be proven; "" if it can, or if it is another node's.
func (n *Node) Certificate(id model.Identity, local bool) string {
	if !local {
		return ""
	}
	row, _ := n.State.Certified.Get(n.Snapshot, string(id))
	if why := row.Problem(n.Now); why != "" {
		return fmt.Sprintf("identity %s has no valid certificate: %s", id, why)
	}
	return ""
}

// serviceTable returns the rules for the port that was asked for.
func (e *explanation) serviceTable() *model.RouteTable {
	name := model.ServiceTable(e.to.service.Namespace, e.to.service.Name, e.to.Port)
	if t, ok := e.State.RouteTables.Get(e.Snapshot, name); ok {
		return t
	}
	return &model.RouteTable{Name: name}
}

// toGateway follows a request by a Gateway, which calls backends with its own identity.
func (e *explanation) toGateway() {
	g := e.to.gateway
	e.used = true
	for _, p := range g.Ports {
		if p.UDP || p.Port != e.to.Port {
			continue
		}
		if l := listenerFor(p, e.request.Host); l != nil {
			if set, _, of := strings.Cut(l.Name, "/"); of {
				e.decides(set) // NAMESPACE/LISTENERSET/LISTENER
			}
			if t := e.streamTable(p, l); t != nil {
				e.requests(t, "", g.Identity)
				return
			}
			if t, ok := e.State.RouteTables.Get(e.Snapshot, l.RouteTable); ok {
				e.requests(t, "", g.Identity)
				return
			}
			e.end(Failing, 404, "listener %s of Gateway %s has no route", l.Name, g.Key())
			return
		}
		e.end(Failing, 0, "no HTTPS listener of Gateway %s takes the name %s", g.Key(), hostname(e.request.Host))
		return
	}
	e.end(Failing, 0, "Gateway %s does not listen on port %d", g.Key(), e.to.Port)
}

// streamTable returns what a TLSRoute or TCPRoute of a listener does with all requests of a connection; nil if the listener
// has none for the name.
func (e *explanation) streamTable(p model.GatewayPort, l *model.GatewayListener) *model.RouteTable {
	streams := slices.Clone(l.Streams)
	for i := range streams {
		if !p.TLS {
			streams[i].Hostname = ""
		}
	}
	h := e.streamHost(streams, model.StreamKey)
	if h == nil {
		return nil
	}
	return &model.RouteTable{VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: h.Rules}}}
}

// listenerFor returns the listener that the client's server name chooses.
func listenerFor(p model.GatewayPort, host string) *model.GatewayListener {
	var hosts []model.VirtualHost
	for _, l := range p.Listeners {
		name := l.Hostname
		if name == "" || !p.TLS {
			name = "*"
		}
		hosts = append(hosts, model.VirtualHost{Hosts: []string{name}})
	}
	best := virtualHost(hosts, host)
	for i := range hosts {
		if best == &hosts[i] {
			return &p.Listeners[i]
		}
	}
	return nil
}

// workloadOf returns the pod behind an endpoint; nil if none is known.
func (n *Node) workloadOf(b *model.Endpoint) *model.Workload {
	for w := range n.State.Workloads.By(n.Snapshot, state.ByAddress, b.Address.Addr().String()) {
		return w
	}
	w, _ := n.State.Workloads.Get(n.Snapshot, b.Workload)
	return w
}

// serving leaves out endpoints that terminate, unless there is no other.
func serving(all []model.Endpoint) []model.Endpoint {
	ready := slices.DeleteFunc(slices.Clone(all), func(b model.Endpoint) bool { return b.Terminating })
	if len(ready) == 0 {
		return all
	}
	return ready
}

func workloadSubject(w *model.Workload) model.Subject {
	return model.Subject{Kind: model.SubjectWorkload, Name: w.Key()}
}

// EnvoyServes reports whether Envoy has listeners for a pod. Of pods of other nodes it is not known, and assumed.
func (n *Node) EnvoyServes(w *model.Workload) bool {
	return !w.Local || n.State.AcceptedAt(n.Snapshot, workloadSubject(w), 1)
}

// TunnelServes reports whether weft tunnel carries connections for a pod. Of pods of other nodes it is assumed.
func (n *Node) TunnelServes(w *model.Workload) bool {
	return !w.Local || n.State.CarriedAt(n.Snapshot, workloadSubject(w), 1)
}

// tunnelTakesRequests reports whether a weft tunnel of this node takes Envoy's connections.
func (n *Node) tunnelTakesRequests() bool {
	row, ok := n.State.Carried.Get(n.Snapshot, model.Tunnel.Key())
	return ok && row.GatewayPort != 0
}

// tunnelReaches reports whether the node of a pod takes connections by weft tunnel.
func (n *Node) tunnelReaches(w *model.Workload) bool {
	return w.Local || n.State.NodeAccepts(n.Snapshot, w.Node, model.TransportTunnel)
}
