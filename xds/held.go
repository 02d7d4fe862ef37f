package xds

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/weft-mesh/weft/internal/state"
)

// maxHeld bounds the route tables, and the clusters, that an Envoy holds for the Services of one namespace. It asks for them as
// clients call, and keeps them: some 60 KB for a port. A tenant may have 16,384 ports, which one pod calls in a minute. What is past
// the bound answers 503, as long as the Envoy holds the others.
const maxHeld = 2048

// hold counts a name of a Service against its namespace.
func (c *cache) hold(s *store, name string, r *resource, snap *state.Snapshot) {
	if s.typeURL != TypeRoute && s.typeURL != TypeCluster {
		return
	}
	n, ok := parseServiceName(name)
	if !ok {
		return
	}
	if s.held[n.namespace] >= c.server.cfg.held() {
		c.letGoOfGone(s, n.namespace, snap)
	}
	r.over = s.held[n.namespace] >= c.server.cfg.held()
	if r.over {
		if !s.told[n.namespace] {
			s.told[n.namespace] = true
			c.server.log.Warn("more ports of a namespace's Services are called on this node than one may have in Envoy; others are answered 503",
				"namespace", n.namespace, "most", c.server.cfg.held(), "first", name)
		}
		return
	}
	r.namespace = n.namespace
	s.held[n.namespace]++
}

func (c *Config) held() int {
	if c.testHeld > 0 {
		return c.testHeld
	}
	return maxHeld
}

// takeHeld takes names that were over when Services change, as far as there is room now.
func (c *cache) takeHeld(keys map[state.Key]struct{}, snap *state.Snapshot) {
	changed := false
	for k := range keys {
		if changed = k.Table == c.server.st.Services.ID(); changed {
			break
		}
	}
	for _, url := range []string{TypeRoute, TypeCluster} {
		s := c.stores[url]
		if !changed || len(s.told) == 0 {
			continue
		}
		for ns := range s.told {
			c.letGoOfGone(s, ns, snap)
		}
		for name, r := range s.resources {
			if n, ok := parseServiceName(name); ok && r.over && s.held[n.namespace] < c.server.cfg.held() {
				c.hold(s, name, r, snap)
				c.rebuild(s, name, snap)
				s.changed(name)
			}
		}
	}
}

// letGoOfGone counts the names no more whose Services are gone: Envoy holds them on, and a namespace whose Services come and go must
// not run out.
func (c *cache) letGoOfGone(s *store, namespace string, snap *state.Snapshot) {
	for name, r := range s.resources {
		if r.namespace != namespace {
			continue
		}
		n, ok := parseServiceName(name)
		if svc, there := c.server.st.Services.Get(snap, n.key()); ok && there {
			if _, ok := svc.Port(n.port); ok {
				continue
			}
		}
		s.letGo(r)
	}
}

// letGo is the inverse of hold.
func (s *store) letGo(r *resource) {
	if r.namespace == "" {
		return
	}
	if s.held[r.namespace]--; s.held[r.namespace] == 0 {
		delete(s.held, r.namespace)
	}
	r.namespace = ""
}

// refuse serves a table that answers 503 in place of one that is over, and no cluster.
func (s *store) refuse(name string, r *resource) {
	if s.typeURL != TypeRoute || r.any != nil {
		return
	}
	answer := directResponse(503)
	answer.DirectResponse.Body = &core.DataSource{Specifier: &core.DataSource_InlineString{
		InlineString: "too many ports of this namespace's Services are called on this node",
	}}
	a, err := marshal(s.typeURL, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{
		Name: "*", Domains: []string{"*"}, Routes: []*routev3.Route{{
			Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}, Action: answer,
		}},
	}}})
	if err != nil {
		return // it is the same for all names, and tested
	}
	r.any, r.version = a, version(a)
	s.changed(name)
}
