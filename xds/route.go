package xds

import (
	"slices"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-mesh/weft/internal/model"
)

// Route tables. One that is removed is served empty, for Envoy ignores a removal; one that nobody wrote for a
// service port sends everything to the service.
var routeKind = &kind{
	build: buildRoutes,
	empty: func(name string) proto.Message { return &routev3.RouteConfiguration{Name: name} },
}

// table is what a route table is built in.
type table struct {
	b       *builder
	plain   bool // the callers have no identity
	gateway bool
	scheme  string      // that requests come in with
	port    uint16      // that requests come in on
	service serviceName // whose port it is of; zero for a Gateway's
	// certificate is the key of what backends with a BackendTLS are shown.
	certificate string
	objects     []model.ObjectVersion
}

func buildRoutes(b *builder, name string) *built {
	if name == trialName {
		return &built{message: (&table{b: b}).trialRoutes(nil)}
	}
	t, source := newTable(b, name)
	if t == nil {
		return nil
	}
	out := &routev3.RouteConfiguration{
		Name:                     name,
		ValidateClusters:         no(), // they come on demand
		IgnorePortInHostMatching: true,
		RequestHeadersToRemove:   []string{scopeHeader, callerHeader, "x-envoy-external-address", "x-envoy-internal"},
	}
	if t.gateway {
		out.RequestHeadersToAdd = []*core.HeaderValueOption{markPassed(1)}
	}
	if source != nil && b.excluded != nil && len(b.excluded.refused) > 0 {
		source = leaveOut(source, t.service, b.excluded.excludes)
	}
	if source != nil {
		hosts := source.VirtualHosts
		if !t.gateway {
			if hosts = byCaller(hosts); len(hosts) > 1 {
				out.VhostHeader = callerHeader // see callerUnwritten
			}
		}
		out.VirtualHosts = t.virtualHosts(hosts)
	}
	return &built{message: out, objects: t.objects, byCaller: out.VhostHeader != ""}
}

// newTable begins a table, and returns what it is built from: nil if there is nothing. The table is nil if there is none of that
// name.
func newTable(b *builder, name string) (*table, *model.RouteTable) {
	t := &table{b: b, scheme: "http"}
	var source *model.RouteTable
	if n, ok := parseServiceName(name); ok && n.protocol == "" {
		t.plain, t.port, t.service = n.plain, n.port, n
		t.objects = append(t.objects, serviceRef(n.namespace, n.name))
		source = serviceTable(b, n)
	} else if n, ok := parseGatewayName(name); ok {
		t.plain, t.port, t.gateway = n.plain, n.port, true
		if n.listener != "" {
			t.scheme = "https"
		}
		source, _ = b.st.RouteTables.Get(b.snap, n.table())
		owners := []model.ObjectVersion{gatewayRef(n.namespace, n.name, 0)}
		if source != nil {
			owners = source.Owners(gatewayRef(n.namespace, n.name, source.Generation))
		}
		t.objects = append(t.objects, owners...)
		if g, ok := b.st.Gateways.Get(b.snap, n.key()); ok {
			t.certificate = g.BackendCertificate
		}
	} else {
		return nil, nil
	}
	return t, source
}

// serviceTable returns the table of a service port, or nil if there is no such port.
func serviceTable(b *builder, n serviceName) *model.RouteTable {
	if t, ok := b.st.RouteTables.Get(b.snap, n.table()); ok {
		return t
	}
	s, ok := b.st.Services.Get(b.snap, n.key())
	if !ok {
		return nil
	}
	if p, ok := s.Port(n.port); !ok || p.Protocol != model.TCP {
		return nil
	}
	return &model.RouteTable{Name: n.table(), VirtualHosts: []model.VirtualHost{{
		Hosts: []string{"*"},
		Rules: []model.Rule{toService(n)},
	}}}
}

// byCaller makes a virtual host of the rules of each namespace of callers, for the header that says it, and one of those that are for
// anybody. The former end with a rule that matches all.
func byCaller(hosts []model.VirtualHost) []model.VirtualHost {
	var out []model.VirtualHost
	of := map[string]int{} // in out
	for _, h := range hosts {
		for _, r := range h.Rules {
			i, ok := of[r.CallerNamespace]
			if !ok {
				i, of[r.CallerNamespace] = len(out), len(out)
				out = append(out, model.VirtualHost{Hosts: []string{r.CallerNamespace}})
				if r.CallerNamespace == "" {
					out[i].Hosts = h.Hosts
				}
			}
			out[i].Rules = append(out[i].Rules, r)
		}
	}
	return out
}

func (t *table) virtualHosts(hosts []model.VirtualHost) []*routev3.VirtualHost {
	var out []*routev3.VirtualHost
	seen := map[string]bool{}
	for _, h := range hosts {
		var domains []string
		for _, d := range h.Hosts {
			for _, d := range spellings(d) {
				if !seen[d] { // a second one would make Envoy refuse the whole table
					seen[d] = true
					domains = append(domains, d)
				}
			}
		}
		if len(domains) == 0 {
			continue
		}
		vh := &routev3.VirtualHost{Name: domains[0], Domains: domains}
		for i := range h.Rules {
			vh.Routes = append(vh.Routes, t.routes(&h.Rules[i])...)
			r := model.ObjectVersion{ObjectRef: h.Rules[i].Route, Generation: h.Rules[i].Generation}
			if r.ObjectRef != (model.ObjectRef{}) && !slices.Contains(t.objects, r) {
				t.objects = append(t.objects, r)
			}
		}
		out = append(out, vh)
	}
	return out
}

// spellings returns the ways to write a host: shop.example. with the dot of an absolute name is shop.example (RFC 9110 4.2.3
// leaves that to DNS). None for "".
func spellings(host string) []string {
	switch {
	case host == "":
		return nil
	case host == "*", strings.HasSuffix(host, "."), strings.HasSuffix(host, ".*"):
		return []string{host}
	}
	return []string{host, host + "."}
}

// routes returns the routes of a rule, in order. Most rules are one or two; those that Envoy cannot say are more.
func (t *table) routes(r *model.Rule) []*routev3.Route {
	if !validChanges(r) {
		// A filter that cannot be applied must not be skipped.
		bare := *r
		bare.RequestHeaders, bare.ResponseHeaders = model.HeaderChange{}, model.HeaderChange{}
		return t.finish(&bare, &routev3.Route{Action: directResponse(500)})
	}
	switch {
	case r.Status != 0:
		return t.finish(r, &routev3.Route{Action: directResponse(uint32(r.Status))})
	case r.Redirect != nil:
		return t.finish(r, t.redirects(r)...)
	}
	return t.finish(r, t.forwards(r)...)
}

// finish adds the rule's match and what all its routes share.
func (t *table) finish(r *model.Rule, routes ...*routev3.Route) []*routev3.Route {
	var out []*routev3.Route
	for _, route := range routes {
		m, ok := routeMatch(r)
		if !ok {
			return nil // no request can match
		}
		if own := route.Match; own != nil { // what tells the rule's routes apart
			m.Headers = append(m.Headers, own.Headers...)
			m.RuntimeFraction = own.RuntimeFraction
		}
		route.Match = m
		route.Name = routeName(r)
		route.RequestHeadersToAdd, route.RequestHeadersToRemove = headerChanges(r.RequestHeaders)
		route.ResponseHeadersToAdd, route.ResponseHeadersToRemove = headerChanges(r.ResponseHeaders)
		if r.CORS != nil {
			out = append(out, withCORS(r.CORS, route)...)
			continue
		}
		out = append(out, route)
	}
	return out
}

func routeName(r *model.Rule) string {
	if r.Route == (model.ObjectRef{}) {
		return ""
	}
	name := r.Route.String() + "/" + strconv.Itoa(r.Index)
	if r.Name != "" {
		name += "/" + r.Name
	}
	return name
}

func directResponse(status uint32) *routev3.Route_DirectResponse {
	return &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: status}}
}
