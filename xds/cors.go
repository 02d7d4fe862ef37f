package xds

import (
	"slices"
	"strconv"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	cors "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weft-mesh/weft/internal/model"
)

const anyValue = "*"

// withCORS adds to a rule's route what the CORS filter needs, and puts before it the routes of preflights that the filter
// would answer otherwise than the Gateway API wants (HTTPCORSFilter).
func withCORS(c *model.CORS, route *routev3.Route) []*routev3.Route {
	route.TypedPerFilterConfig = corsConfig(c)
	if route.GetRoute() == nil {
		return []*routev3.Route{route} // the filter does nothing there
	}
	var out []*routev3.Route
	if !slices.Contains(c.AllowOrigins, anyValue) {
		// The filter would say which methods and headers it allows, and to nobody.
		foreign := preflights(route)
		foreign.Match.Headers = append(foreign.Match.Headers, present("origin"))
		for _, o := range c.AllowOrigins {
			foreign.Match.Headers = append(foreign.Match.Headers, not(headerMatch("origin", originMatch(o))))
		}
		foreign.Action, foreign.TypedPerFilterConfig = directResponse(200), nil
		out = append(out, foreign)
	}
	if c.AllowCredentials && slices.Contains(c.AllowHeaders, anyValue) {
		// The filter allows the headers that were asked for. It would write an empty list where none was.
		none := preflights(route)
		none.Match.Headers = append(none.Match.Headers, not(present("access-control-request-headers")))
		without := *c
		without.AllowHeaders = nil
		none.TypedPerFilterConfig = corsConfig(&without)
		out = append(out, none)
	}
	return append(out, route)
}

// preflights returns a copy of a route for CORS preflights alone (Fetch, 4.8).
func preflights(route *routev3.Route) *routev3.Route {
	out := proto.CloneOf(route)
	out.Match.Headers = append(out.Match.Headers, headerMatch(":method", exactly("OPTIONS")), present("access-control-request-method"))
	return out
}

func present(name string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
}

func not(m *routev3.HeaderMatcher) *routev3.HeaderMatcher {
	m.InvertMatch = true
	return m
}

func corsConfig(c *model.CORS) map[string]*anypb.Any {
	p := &cors.CorsPolicy{
		AllowMethods:  strings.Join(c.AllowMethods, ","),
		AllowHeaders:  strings.Join(c.AllowHeaders, ","),
		ExposeHeaders: strings.Join(exposed(c), ","),
		// The mesh answers all preflights: a backend might allow what the route does not.
		ForwardNotMatchingPreflights: no(),
	}
	if c.MaxAge > 0 {
		p.MaxAge = strconv.Itoa(int(c.MaxAge / time.Second))
	}
	if c.AllowCredentials {
		p.AllowCredentials = yes()
	}
	for _, o := range c.AllowOrigins {
		p.AllowOriginStringMatch = append(p.AllowOriginStringMatch, originMatch(o))
	}
	return map[string]*anypb.Any{filterCORS: typed(p)}
}

// exposed returns the headers that a script may read. With credentials "*" would be the name of a header (Fetch, 4.10).
func exposed(c *model.CORS) []string {
	if !c.AllowCredentials {
		return c.ExposeHeaders
	}
	return slices.DeleteFunc(slices.Clone(c.ExposeHeaders), func(h string) bool { return h == anyValue })
}

// originMatch: "*" in an origin stands for any text (GEP-1767).
func originMatch(origin string) *matcher.StringMatcher {
	if !strings.Contains(origin, "*") {
		return exactly(origin)
	}
	return matching(strings.ReplaceAll(quoteMeta(origin), `\*`, ".*"))
}
