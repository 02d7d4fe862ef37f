package xds

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// maxHeld bounds the route tables, and the clusters, that an Envoy holds for the Services of one namespace. It asks for them as
// clients call, and keeps them: some 60 KB for a port. A tenant may have 16,384 ports, which one pod calls in a minute. What is past
// the bound answers 503, as long as the Envoy holds the others.
const maxHeld = 2048

// hold counts a name of a Service against its namespace.
func (c *cache) hold(s *store, name string, r *resource) {
	if s.typeURL != TypeRoute && s.typeURL != TypeCluster {
		return
	}
	n, ok := parseServiceName(name)
	if !ok {
		return
	}
	if r.over = s.held[n.namespace] >= c.server.cfg.held(); r.over {
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

// letGo is the inverse of hold.
func (s *store) letGo(r *resource) {
	if r.namespace == "" {
		return
	}
	delete(s.told, r.namespace)
	if s.held[r.namespace]--; s.held[r.namespace] == 0 {
		delete(s.held, r.namespace)
	}
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
