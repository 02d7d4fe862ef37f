package xds

import (
	"fmt"
	"net/url"
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
		s, ok := queryMatch(q)
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

// queryMatch compares a decoded value, as users write it. Envoy compares what the client sent, so what may come
// encoded is matched in each of its forms.
func queryMatch(v model.ValueMatch) (*matcher.StringMatcher, bool) {
	if v.Type == model.MatchRegex || url.QueryEscape(v.Value) == v.Value {
		return valueMatch(v)
	}
	var re strings.Builder
	for i := range len(v.Value) {
		c := v.Value[i]
		switch {
		case c == ' ':
			re.WriteString(`(?:\+|%20)`)
		case strings.IndexByte("%&+#", c) >= 0 || c >= 0x80:
			fmt.Fprintf(&re, "(?i:%%%02x)", c) // never sent as it is
		case url.QueryEscape(string(c)) == string(c):
			re.WriteString(quoteMeta(string(c))) // a dot is sent as it is, and means a dot
		default:
			fmt.Fprintf(&re, "(?:%s|(?i:%%%02x))", quoteMeta(string(c)), c)
		}
	}
	return matching(re.String()), v.Name != ""
}

func headerMatch(name string, s *matcher.StringMatcher) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: s}}
}
