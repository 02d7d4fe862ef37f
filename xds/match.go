package xds

import (
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// routeMatch compiles what a rule matches; false if nothing can match it, as an expression that does not compile.
func routeMatch(r *model.Rule) (*routev3.RouteMatch, bool) {
	m := &routev3.RouteMatch{}
	if !setPath(m, r.Match.Path) {
		return nil, false
	}
	if r.Match.Method != "" {
		m.Headers = append(m.Headers, headerMatch(":method", exactly(r.Match.Method)))
	}
	for _, h := range r.Match.Headers {
		s, ok := valueMatch(h)
		if !ok {
			return nil, false
		}
		name := strings.ToLower(h.Name)
		if name == "host" {
			name = ":authority"
		}
		m.Headers = append(m.Headers, headerMatch(name, s))
	}
	for _, q := range r.Match.Query {
		s, ok := valueMatch(q)
		if !ok {
			return nil, false
		}
		m.QueryParameters = append(m.QueryParameters, &routev3.QueryParameterMatcher{
			Name: q.Name,
			QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{
				StringMatch: s,
			},
		})
	}
	if r.Match.GRPC {
		m.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	}
	if r.CallerNamespace != "" {
		m.FilterState = []*matcher.FilterStateMatcher{{
			Key: stateNamespace, Matcher: &matcher.FilterStateMatcher_StringMatch{StringMatch: exactly(r.CallerNamespace)},
		}}
	}
	return m, true
}

func setPath(m *routev3.RouteMatch, p model.PathMatch) bool {
	switch p.Type {
	case model.MatchExact:
		path := p.Value
		if path == "" {
			path = "/"
		}
		m.PathSpecifier = &routev3.RouteMatch_Path{Path: path}
	case model.MatchRegex:
		if !validRegex(p.Value) || p.Value == "" {
			return false
		}
		m.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: regex(p.Value)}
	default:
		prefix := trimSlashes(p.Value)
		switch {
		case prefix == "":
			m.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
		case strings.ContainsAny(prefix, "?#"):
			return false // a path holds neither
		default:
			m.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: prefix}
		}
	}
	return true
}

func trimSlashes(prefix string) string { return strings.TrimRight(prefix, "/") }

func valueMatch(v model.ValueMatch) (*matcher.StringMatcher, bool) {
	if v.Type != model.MatchRegex {
		return exactly(v.Value), v.Name != ""
	}
	return matching(v.Value), v.Name != "" && v.Value != "" && validRegex(v.Value)
}

func headerMatch(name string, s *matcher.StringMatcher) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: s}}
}
