package describe

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// Service is what the mesh makes of a Service.
type Service struct {
	*model.Service
	Ports []Port `json:"ports"` // in place of the model's
	// Routes lead to the Service as a backend: kind/namespace/name.
	Routes []string `json:"routes,omitempty"`
	// Streams are the TCPRoutes and TLSRoutes that its ports have.
	Streams []Stream `json:"streams,omitempty"`
}

// Port is a port of a Service.
type Port struct {
	model.ServicePort
	// BackendTLS is the BackendTLSPolicy by which Envoy connects to the endpoints, namespace/name; "" for none.
	BackendTLS string           `json:"backendTLS,omitempty"`
	Endpoints  []model.Endpoint `json:"endpoints"`
}

func (d *description) service(key string) bool {
	s, ok := d.State.Services.Get(d.Snapshot, key)
	if !ok {
		return false
	}
	out := &Service{Service: s}
	d.out.Service = out
	d.status(KindService, s.Namespace, s.Name)
	for _, p := range s.Ports {
		port := Port{ServicePort: p, Endpoints: []model.Endpoint{}}
		portKey := model.PortKey(s.Namespace, s.Name, p.Port, p.Protocol)
		if row, ok := d.State.Endpoints.Get(d.Snapshot, portKey); ok {
			port.Endpoints = d.endpoints(row.Backends)
		}
		if t, ok := d.State.BackendTLS.Get(d.Snapshot, portKey); ok && p.Protocol == model.TCP {
			port.BackendTLS = model.Key(t.Policy.Namespace, t.Policy.Name)
			if t.Invalid {
				d.problem(fmt.Sprintf("port %d: BackendTLSPolicy %s cannot be followed, and Envoy sends nothing", p.Port, port.BackendTLS),
					"see the policy's condition Accepted (weft config status)")
			}
		}
		out.Ports = append(out.Ports, port)
		if t, ok := d.State.RouteTables.Get(d.Snapshot, model.ServiceTable(s.Namespace, s.Name, p.Port)); ok && p.Protocol == model.TCP {
			d.table(t, func(*model.Rule) bool { return true })
		}
		d.portProblems(s, &port)
	}
	out.Routes = d.usedBy(s)
	out.Streams = d.divisions(func(service string, _ model.ObjectRef) bool { return service == s.Key() })
	d.streamProblems(out.Streams)
	d.serviceProblems(s)
	return true
}

// endpoints leaves out whose the endpoints of other namespaces are: who writes an EndpointSlice may name any address.
func (n *Node) endpoints(all []model.Endpoint) []model.Endpoint {
	out := slices.Clone(all)
	for i, b := range out {
		if b.Workload != "" && !n.seesKey(b.Workload) {
			out[i] = model.Endpoint{Address: b.Address, NotGranted: b.NotGranted, Terminating: b.Terminating}
		}
	}
	return out
}

// usedBy finds the routes that have a Service as a backend.
func (d *description) usedBy(s *model.Service) []string {
	seen := map[string]bool{}
	is := func(b *model.Backend) bool { return b.Namespace == s.Namespace && b.Name == s.Name }
	for t := range d.State.RouteTables.All(d.Snapshot) {
		for _, v := range t.VirtualHosts {
			for i := range v.Rules {
				for b := range v.Rules[i].AllBackends() {
					if d.sees(v.Rules[i].Route.Namespace) && is(b) && v.Rules[i].Route.Kind != KindService {
						seen[v.Rules[i].Route.String()] = true
					}
				}
			}
		}
	}
	for r := range d.State.StreamRoutes.All(d.Snapshot) {
		if d.sees(r.Route.Namespace) && slices.ContainsFunc(r.Backends, func(b model.Backend) bool { return is(&b) }) {
			seen[r.Route.String()] = true
		}
	}
	for row := range d.State.Divisions.All(d.Snapshot) {
		if d.sees(row.Route.Namespace) && slices.ContainsFunc(row.Shares, func(share model.Share) bool { return is(&share.Backend) }) {
			seen[row.Route.String()] = true
		}
	}
	return sortedKeys(seen)
}

func (d *description) portProblems(s *model.Service, p *Port) {
	name := fmt.Sprintf("port %d", p.Port)
	if p.Protocol == model.UDP {
		name += "/UDP"
	}
	if len(p.Endpoints) == 0 {
		d.problem(name+" has no ready endpoint", "a pod that the Service selects must become ready: kubectl get endpointslices -n "+s.Namespace)
	}
	var strangers []string
	for _, e := range p.Endpoints {
		if e.NotGranted {
			strangers = append(strangers, cmp.Or(e.Workload, e.Address.Addr().String()))
		}
	}
	if len(strangers) > 0 {
		slices.Sort(strangers)
		strangers = slices.Compact(strangers)
		d.problem(fmt.Sprintf("%s has endpoints that are pods of other namespaces, and Envoy sends nothing there: %v", name, firsts(strangers)),
			"add a ReferenceGrant in their namespace that allows Services of "+s.Namespace)
	}
}

func (d *description) serviceProblems(s *model.Service) {
	if len(s.Refused) > 0 {
		d.problem(fmt.Sprintf("the addresses %v are not balanced: the namespace is over its budget", s.Refused),
			"see docs/security.md for the budgets, and remove Services or ports")
	}
	d.applied(model.Subject{Kind: model.SubjectService, Name: s.Key()})
	d.failures()
	d.ruleProblems()
	d.rejections(model.ObjectRef{Kind: KindService, Namespace: s.Namespace, Name: s.Name})
}
