package gateway

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// TCPRoutes and TLSRoutes with Services as parents. The kernel divides the connections of TCPRoutes, so these are authenticated,
// refused and counted as those of a Service without a route. Those of TLSRoutes Envoy divides (nameddivision.go). A route of another
// namespace than the Service's is for the callers of its own (GEP-1294).

// callersPort is a TCP port of a Service for the callers of a namespace; "" for all.
type callersPort struct {
	caller string
	port   uint16
}

// streamPorts are the TCP ports of a Service that TCPRoutes and TLSRoutes name.
type streamPorts struct {
	service string                 // key
	owners  map[callersPort]string // the oldest of its TCPRoutes, as model.ObjectRef.String
	named   map[callersPort]bool   // those that TLSRoutes name, which go before TCPRoutes (GEP-1426, Route types)
	// requests are ports that an HTTPRoute or a GRPCRoute for the same callers takes, by its kind: these go before both.
	requests map[callersPort]string
}

func newStreamPorts(db *state.DB) *state.Table[*streamPorts] {
	return state.NewTable(db, "gateway-stream-ports", func(p *streamPorts) string { return p.service })
}

// owner returns the TCPRoute that has a port; "" if none has.
func (p *streamPorts) owner(port callersPort) string {
	if p == nil || p.requests[port] != "" || p.named[port] {
		return ""
	}
	return p.owners[port]
}

// byName reports whether TLSRoutes have a port.
func (p *streamPorts) byName(port callersPort) bool {
	return p != nil && p.requests[port] == "" && p.named[port]
}

// kind returns the kind of the routes of connections that have a port; "" if none have.
func (p *streamPorts) kind(port callersPort) string {
	switch {
	case p.byName(port):
		return "TLSRoute"
	case p.owner(port) != "":
		return "TCPRoute"
	}
	return ""
}

// streamPortsUnit is one for all Services, so that those without a route of connections cost nothing.
var streamPortsUnit = unitKind{name: "ports of routes of connections", stage: stageConflicts, compute: findStreamPorts}

func findStreamPorts(v *view, _ string) ([]output, bool) {
	routes := map[string][]*route{} // by the key of the Service
	add := func(r route) {
		for key := range parentServices(&r) {
			routes[key] = append(routes[key], &r)
		}
	}
	for o := range v.objs.TCPRoutes.All(v.Snapshot) {
		add(tcpRouteInput(o))
	}
	for o := range v.objs.TLSRoutes.All(v.Snapshot) {
		add(tlsRouteInput(o))
	}
	var outs []output
	for _, key := range slices.Sorted(maps.Keys(routes)) {
		svc, ok := v.objs.Services.Get(v.Snapshot, key)
		if !ok {
			continue
		}
		p := &streamPorts{service: key, owners: map[callersPort]string{}, named: map[callersPort]bool{}, requests: map[callersPort]string{}}
		v.claimPorts(p, svc, routes[key])
		outs = append(outs, out(v.streamPorts, key, p))
	}
	return outs, true
}

// claimPorts gives ports to TLSRoutes, or to the oldest of TCPRoutes, for the same callers. The routes of the Service's own namespace
// come first: HTTPRoutes of others do not attach to what these have, and so do not keep a route of connections from it.
func (v *view) claimPorts(p *streamPorts, svc *corev1.Service, routes []*route) {
	slices.SortFunc(routes, func(a, b *route) int {
		return cmp.Or(cmp.Compare(callerOf(a, svc), callerOf(b, svc)), a.compareAge(b))
	})
	known := map[string]bool{}
	for _, r := range routes {
		caller := callerOf(r, svc)
		if !known[caller] {
			known[caller] = true
			v.requestPorts(p, svc, caller)
		}
		for _, port := range v.streamPortsOf(svc, r) {
			switch at := (callersPort{caller, port}); {
			case r.ref.Kind == "TLSRoute":
				p.named[at] = true
			case p.owners[at] == "":
				p.owners[at] = r.ref.String()
			}
		}
	}
}

// parentServices yields the keys of the Services that a route names as parents, each once.
func parentServices(r *route) iter.Seq[string] {
	seen := map[string]bool{}
	for _, p := range r.parents[:min(len(r.parents), maxParents)] {
		if ref := parentObject(p, r.ref.Namespace); ref.Kind == "Service" && ref.Group == "" {
			seen[ref.Key()] = true
		}
	}
	return maps.Keys(seen)
}

// streamPortsOf returns the ports of a Service that a route of connections selects; none if the route is not valid.
func (v *view) streamPortsOf(svc *corev1.Service, r *route) []uint16 {
	if v.streamFault(r, r.compile(&resolver{v: v, route: r.ref, bytes: true})) != nil {
		return nil
	}
	var out []uint16
	for _, p := range r.parentsOf(svc) {
		for _, port := range tcpPorts(svc, p) {
			out = append(out, port.Port)
		}
	}
	return out
}

// parentsOf returns the parentRefs of a route that name a Service.
func (r *route) parentsOf(svc *corev1.Service) []gwv1.ParentReference {
	parent := model.ObjectRef{Kind: "Service", Namespace: svc.Namespace, Name: svc.Name}
	var out []gwv1.ParentReference
	for _, p := range r.parents[:min(len(r.parents), maxParents)] {
		if parentObject(p, r.ref.Namespace) == parent {
			out = append(out, p)
		}
	}
	return out
}

// tcpPorts returns the TCP ports that port and sectionName of a parentRef select, whatever they speak.
func tcpPorts(svc *corev1.Service, p gwv1.ParentReference) []model.ServicePort {
	var ignored problems
	section := orDefault(p.SectionName, "")
	return slices.DeleteFunc(servicePorts(svc, &ignored), func(port model.ServicePort) bool {
		return port.Protocol != model.TCP || p.Port != nil && *p.Port != int32(port.Port) || section != "" && section != port.Name
	})
}

// requestPorts notes the ports of a Service that HTTPRoutes and GRPCRoutes take for the callers of a namespace, each with the kind.
func (v *view) requestPorts(p *streamPorts, svc *corev1.Service, caller string) {
	take := func(r route) {
		if _, refused := v.routeRefusals.Get(v.Snapshot, r.ref.String()); refused || callerOf(&r, svc) != caller ||
			r.compile(&resolver{v: v, route: r.ref}).invalid() != nil {
			return
		}
		for _, parent := range r.parentsOf(svc) {
			for _, port := range selectPorts(svc, parent, caller).ports {
				if caller == "" || p.kind(callersPort{"", port.Port}) == "" {
					p.requests[callersPort{caller, port.Port}] = r.ref.Kind
				}
			}
		}
	}
	parent := kube.ParentKey("Service", svc.Namespace, svc.Name)
	for o := range v.objs.HTTPRoutes.By(v.Snapshot, kube.ByParent, parent) {
		take(httpRouteInput(o))
	}
	for o := range v.objs.GRPCRoutes.By(v.Snapshot, kube.ByParent, parent) {
		take(grpcRouteInput(o))
	}
}

// streamFault returns what keeps a route of connections from Services.
func (v *view) streamFault(r *route, c *compiled) *fault {
	if f := c.invalid(); f != nil {
		return f
	}
	if _, f := routeHosts(r.hostnames); f != nil {
		return f
	}
	if refused, over := v.routeRefusals.Get(v.Snapshot, r.ref.String()); over {
		return unsupported("%s", refused.why)
	}
	return v.overSlots(r.ref)
}

// stream attaches a TCPRoute or a TLSRoute to the ports of a Service.
func (a *attacher) stream(svc *corev1.Service, ref model.ObjectRef, p gwv1.ParentReference, c *compiled) (note string, f *fault) {
	if a.route.ref.Kind == "UDPRoute" {
		return "", noParent("a UDPRoute attaches to Gateways alone; of a Service, the mesh forwards datagrams without a route")
	}
	if f := a.v.streamFault(&a.route, c); f != nil {
		return "", f
	}
	named := a.route.ref.Kind == "TLSRoute"
	var hosts []boundHost
	if named {
		names, _ := routeHosts(a.route.hostnames)
		hosts = intersect("", names)
	}
	owners, _ := a.v.streamPorts.Get(a.v.Snapshot, kube.Key(svc))
	caller := callerOf(&a.route, svc)
	var left []string
	attached := false
	for _, port := range tcpPorts(svc, p) {
		at := callersPort{caller, port.Port}
		switch owner := owners.owner(at); {
		case owner == a.route.ref.String(), named && owners.byName(at):
			attached = true
			a.add(binding{
				table: divisionTable(svc, port.Port, caller), port: port.Port, caller: caller, hosts: hosts, parent: ref, passthrough: true, rules: c.rules,
			})
		case owners.byName(at):
			left = append(left, fmt.Sprintf("port %d has a TLSRoute, which goes before TCPRoutes", port.Port))
		case owner != "":
			left = append(left, fmt.Sprintf("port %d has the older %s", port.Port, owner))
		case owners != nil && owners.requests[at] != "":
			left = append(left, fmt.Sprintf("port %d has an %s, which goes before %ss", port.Port, owners.requests[at], a.route.ref.Kind))
		}
	}
	switch {
	case attached && len(left) > 0:
		return "not attached where " + firsts(left), nil
	case attached:
		return "", nil
	case len(left) > 0:
		return "", &fault{reason: reasonConflicted, message: fmt.Sprintf("Service %s: %s", kube.Key(svc), firsts(left))}
	}
	return "", noParent("Service %s has no TCP port that port and sectionName of the parentRef select", kube.Key(svc))
}

// divisionTable is what attachments of TCPRoutes and TLSRoutes to a Service port have for a route table.
func divisionTable(svc *corev1.Service, port uint16, caller string) string {
	return "division/" + model.DivisionKey(model.PortKey(svc.Namespace, svc.Name, port, model.TCP), caller)
}

// divides reports whether a route of connections has a port of a Service for all callers.
func (v *view) divides(svc *corev1.Service, port uint16) bool {
	for range v.attachments.By(v.Snapshot, byTable, divisionTable(svc, port, "")) {
		return true
	}
	return false
}

// divisionUnits resolve the backends of TCPRoutes to what is behind them.
var divisionUnits = unitKind{
	name: "division", stage: stageDivisions,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.TCPRoute] { return o.TCPRoutes }),
	compute: func(v *view, key string) ([]output, bool) {
		r, ok := v.objs.TCPRoutes.Get(v.Snapshot, key)
		if !ok {
			return nil, false
		}
		a, ok := v.attachments.Get(v.Snapshot, streamRouteRef("TCPRoute", r.Namespace, r.Name).String())
		if !ok {
			return nil, true
		}
		var outs []output
		for _, b := range a.bindings {
			if b.parent.Kind == "Service" {
				d := &model.Division{Service: b.parent.Key(), Port: b.port, Route: a.route, CallerNamespace: b.caller, Shares: v.shares(b.rules[0].Backends)}
				outs = append(outs, out(v.st.Divisions, d.Key(), d))
			}
		}
		return outs, true
	},
}

func (v *view) shares(backends []model.Backend) []model.Share {
	var out []model.Share
	for _, b := range backends {
		s := model.Share{Backend: b}
		if !b.Invalid {
			if e, ok := v.st.Endpoints.Get(v.Snapshot, model.PortKey(b.Namespace, b.Name, b.Port, model.TCP)); ok {
				s.Endpoints = e.Backends
			}
		}
		out = append(out, s)
	}
	return out
}

// slotDemandUnits ask for the slots of TCPRoutes in the kernel. They count for the route's namespace, as those of its Services.
var slotDemandUnits = unitKind{
	name: "demand of a TCPRoute", stage: stageDemands,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.TCPRoute] { return o.TCPRoutes }),
	compute: func(v *view, key string) ([]output, bool) {
		o, ok := v.objs.TCPRoutes.Get(v.Snapshot, key)
		if !ok {
			return nil, false
		}
		return v.kernelDemand(tcpRouteInput(o), 2*model.MaxDivision), true
	},
}

// kernelDemand asks for slots for each port that a route of connections selects of Services.
func (v *view) kernelDemand(r route, slots int) []output {
	ports, frontends := 0, 0
	for key := range parentServices(&r) {
		if svc, ok := v.objs.Services.Get(v.Snapshot, key); ok {
			n := 0
			for _, p := range r.parentsOf(svc) {
				n += len(tcpPorts(svc, p))
			}
			if ports += n; callerOf(&r, svc) != "" { // for which the kernel has entries of their own
				addrs, _ := kube.ServiceAddresses(svc)
				frontends += n * min(len(addrs), maxAddresses(svc))
			}
		}
	}
	if slots*ports+frontends == 0 {
		return nil
	}
	// Without sets nothing of it is served if not all is.
	d := &demand{service: r.ref.String(), namespace: r.ref.Namespace, created: r.created, frontends: frontends, slots: slots * ports}
	return []output{out(v.demands, d.service, d)}
}

// overSlots is the fault of a route of connections that finds no room in the kernel.
func (v *view) overSlots(r model.ObjectRef) *fault {
	a, ok := v.allotments.Get(v.Snapshot, r.String())
	switch {
	case ok && r.Kind == "TLSRoute":
		return unsupported("its addresses in the kernel are too many: %s", a.why)
	case ok:
		return unsupported("%d slots for each port and family of addresses are too many: %s", model.MaxDivision, a.why)
	}
	return nil
}
