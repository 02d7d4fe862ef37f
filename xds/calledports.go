package xds

import (
	"fmt"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// maxCalledPorts bounds the Service ports of one namespace whose route tables and clusters Envoys are subscribed to. Envoy asks for
// them as clients call, and keeps them: some 60 KB for a port. A tenant may have 16,384 ports, which one pod calls in a minute. A port
// past the bound answers 503 while the others are subscribed to.
//
// A port has up to two tables, for callers with and without an identity, and a cluster for each of them, each protocol, and each
// certificate of a Gateway that it is shown. They count as one.
const maxCalledPorts = 2048

// calledPorts are the Service ports that have a resource which somebody is subscribed to, by namespace.
type calledPorts map[string]*namespacePorts

// namespacePorts are those of one namespace.
type namespacePorts struct {
	services map[string]*servicePorts // by key of the Service
	counted  int                      // ports within the limit
	over     map[*calledPort]struct{} // ports past it
}

// servicePorts are those of one Service.
type servicePorts struct {
	ports map[uint16]*calledPort
	over  int // how many are past the limit
}

// calledPort is a port, or one that is not there any more: Envoy stays subscribed to what it once asked for. That counts for
// nothing, so that a namespace whose Services come and go does not run out, until the Service is there again.
type calledPort struct {
	service serviceName
	names   map[ref]struct{} // resources
	state   portState
}

type portState int

const (
	portGone    portState = iota // there is no Service that has it
	portCounted                  // within the limit
	portOver                     // past it
)

func (c *Config) mostCalledPorts() int {
	if c.testCalledPorts > 0 {
		return c.testCalledPorts
	}
	return maxCalledPorts
}

// addCalled notes that somebody subscribes to a resource that nobody was subscribed to.
func (c *cache) addCalled(r ref, snap *state.Snapshot) {
	n, ok := calledName(r)
	if !ok {
		return
	}
	ns := c.called[n.namespace]
	if ns == nil {
		ns = &namespacePorts{services: map[string]*servicePorts{}, over: map[*calledPort]struct{}{}}
		c.called[n.namespace] = ns
	}
	of := ns.services[n.key()]
	if of == nil {
		of = &servicePorts{ports: map[uint16]*calledPort{}}
		ns.services[n.key()] = of
	}
	p := of.ports[n.port]
	if p == nil {
		p = &calledPort{service: serviceName{namespace: n.namespace, name: n.name, port: n.port}, names: map[ref]struct{}{}}
		of.ports[n.port] = p
	}
	p.names[r] = struct{}{}
	if len(p.names) == 1 {
		c.decide(ns, p, snap)
	}
}

// removeCalled notes that nobody is subscribed to a resource any more.
func (c *cache) removeCalled(r ref) {
	n, ok := calledName(r)
	if !ok {
		return
	}
	ns := c.called[n.namespace]
	of := ns.services[n.key()]
	p := of.ports[n.port]
	delete(p.names, r)
	if len(p.names) > 0 {
		return
	}
	c.setPort(ns, p, portGone)
	if delete(of.ports, n.port); len(of.ports) == 0 {
		delete(ns.services, n.key())
	}
	if len(ns.services) == 0 {
		delete(c.called, n.namespace)
	}
}

// calledName parses the name of a resource that is of a Service port and whose number is limited.
func calledName(r ref) (serviceName, bool) {
	if r.typeURL != TypeRoute && r.typeURL != TypeCluster {
		return serviceName{}, false
	}
	return parseServiceName(r.name)
}

func (p *calledPort) over() bool { return p != nil && p.state == portOver }

// overLimit reports whether a resource is of a port past the limit.
func (c *cache) overLimit(r ref) bool {
	n, ok := calledName(r)
	if !ok {
		return false
	}
	ns := c.called[n.namespace]
	return ns != nil && ns.services[n.key()] != nil && ns.services[n.key()].ports[n.port].over()
}

// calledChanged follows the Services that changed, and lets ports in as far as there is room.
func (c *cache) calledChanged(keys map[state.Key]struct{}, snap *state.Snapshot) {
	for k := range keys {
		key, ok := c.server.st.Services.Row(k)
		if !ok {
			continue
		}
		namespace, _ := model.SplitKey(key)
		ns := c.called[namespace]
		if ns == nil || ns.services[key] == nil {
			continue
		}
		for _, p := range ns.services[key].ports {
			before := p.over()
			if c.decide(ns, p, snap); p.over() != before {
				c.rebuildPort(p, snap)
			}
		}
	}
	c.letIn(snap)
}

// letIn takes ports past the limit to those within it, where others went.
func (c *cache) letIn(snap *state.Snapshot) {
	for ns := range c.room {
		for p := range ns.over {
			if ns.counted >= c.server.cfg.mostCalledPorts() {
				break
			}
			c.decide(ns, p, snap)
			c.rebuildPort(p, snap)
		}
	}
	clear(c.room)
}

// decide finds the state of a port. One that is counted remains so while its Service has it.
func (c *cache) decide(ns *namespacePorts, p *calledPort, snap *state.Snapshot) {
	there := false
	if s, ok := c.server.st.Services.Get(snap, p.service.key()); ok {
		_, there = s.Port(p.service.port)
	}
	switch {
	case !there:
		c.setPort(ns, p, portGone)
	case p.state == portCounted:
	case ns.counted < c.server.cfg.mostCalledPorts():
		c.setPort(ns, p, portCounted)
	default:
		c.setPort(ns, p, portOver)
	}
}

func (c *cache) setPort(ns *namespacePorts, p *calledPort, to portState) {
	if p.state == to {
		return
	}
	of := ns.services[p.service.key()]
	switch p.state {
	case portCounted:
		ns.counted--
		c.room[ns] = struct{}{}
	case portOver:
		delete(ns.over, p)
		of.over--
	}
	p.state = to
	switch to {
	case portCounted:
		ns.counted++
	case portOver:
		ns.over[p] = struct{}{}
		of.over++
	}
	c.reportOver(p.service, of.over > 0)
}

// reportOver writes or deletes the row that says that a Service has ports past the limit.
func (c *cache) reportOver(n serviceName, over bool) {
	key := model.PortsPrefix + n.key()
	if over == (c.rejected[key] != nil) {
		return
	}
	delete(c.rejected, key)
	if over {
		c.rejected[key] = &model.Rejection{
			Resource: key, Objects: []model.ObjectVersion{serviceRef(n.namespace, n.name)},
			Message: fmt.Sprintf("%d ports of the namespace's Services are called from the node, and no more may be; ports of this Service that were called later are answered 503",
				c.server.cfg.mostCalledPorts()),
		}
	}
	c.reports.rejection(key)
}

// rebuildPort makes the resources of a port again that went past the limit or came within it.
func (c *cache) rebuildPort(p *calledPort, snap *state.Snapshot) {
	for r := range p.names {
		c.rebuild(c.stores[r.typeURL], r.name, snap)
	}
}

// refuse serves a table that answers 503 in place of one past the limit, and no cluster.
func (c *cache) refuse(s *store, name string) {
	r, m := s.resources[name], made{absent: true}
	if s.typeURL == TypeRoute {
		answer := directResponse(503)
		answer.DirectResponse.Body = &core.DataSource{Specifier: &core.DataSource_InlineString{
			InlineString: "too many ports of this namespace's Services are called on this node",
		}}
		m.any, m.err = marshal(s.typeURL, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{
			Name: "*", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}, Action: answer,
			}},
		}}})
		if m.err != nil {
			return // it is the same for all names, and tested
		}
		m.version = version(m.any)
	}
	c.deps.Remove(ref{s.typeURL, name})
	c.server.clearRejection(s.typeURL, name)
	if r.version == m.version {
		return
	}
	r.any, r.version, r.objects, r.invalid, r.byCaller = m.any, m.version, nil, false, false
	s.changed(name)
}
