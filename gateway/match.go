package gateway

import (
	"fmt"
	"regexp"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// fault says why a rule or a route is not valid. Reason is one of the Gateway API's.
type fault struct {
	reason, message string
	// route is true if the whole route is refused for it. Without this rule its requests could match another rule of the
	// route, and it is not known what the rule would have asked of them.
	route bool
}

func unsupported(format string, args ...any) *fault {
	return &fault{reason: string(gwv1.RouteReasonUnsupportedValue), message: fmt.Sprintf(format, args...)}
}

// unknownType is the fault of a type that the Gateway API may add to an enumeration. It demands that such a route is not
// accepted.
func unknownType(format string, args ...any) *fault {
	f := unsupported(format, args...)
	f.route = true
	return f
}

// in says where in the route the fault is.
func (f *fault) in(at string) *fault {
	g := *f
	g.message = at + ": " + f.message
	return &g
}

// asFault wraps what the checks of validate.go say; "" is good.
func asFault(message string) *fault {
	if message == "" {
		return nil
	}
	return &fault{reason: string(gwv1.RouteReasonUnsupportedValue), message: message}
}

// rank orders matches: the greater comes first, compared from the left. HTTP: path class, characters of the path, method,
// headers, query parameters. gRPC comes before HTTP (it has a content type of its own): characters of the service and of
// the method, headers, and last the characters of regular expressions, which say nothing about those of what they match.
type rank [6]int

const (
	classPrefix = iota + 1
	classRegex
	classExact
)

func (r rank) compare(o rank) int {
	for i := range r {
		if r[i] != o[i] {
			return o[i] - r[i]
		}
	}
	return 0
}

// httpMatch reads a match of an HTTPRoute.
func httpMatch(in gwv1.HTTPRouteMatch) (model.Match, rank, *fault) {
	m := model.Match{}
	r := rank{}
	var f *fault
	if m.Path, r[1], f = pathMatch(in.Path); f != nil {
		return m, r, f
	}
	r[2] = len(m.Path.Value)
	if in.Method != nil {
		switch *in.Method {
		case gwv1.HTTPMethodGet, gwv1.HTTPMethodHead, gwv1.HTTPMethodPost, gwv1.HTTPMethodPut, gwv1.HTTPMethodDelete,
			gwv1.HTTPMethodConnect, gwv1.HTTPMethodOptions, gwv1.HTTPMethodTrace, gwv1.HTTPMethodPatch:
		default:
			return m, r, unknownType("method %q is not one that the Gateway API knows", short(string(*in.Method)))
		}
		m.Method, r[3] = string(*in.Method), 1
	}
	if len(in.Headers) > maxHeaders || len(in.QueryParams) > maxHeaders {
		return m, r, unsupported("more than %d header or query parameter matches", maxHeaders)
	}
	for _, h := range in.Headers {
		vm, f := headerMatch(string(h.Name), h.Type, h.Value)
		if f != nil {
			return m, r, f
		}
		m.Headers = addMatch(m.Headers, vm)
	}
	for _, q := range in.QueryParams {
		vm, f := queryMatch(q)
		if f != nil {
			return m, r, f
		}
		m.Query = addMatch(m.Query, vm)
	}
	r[4], r[5] = len(m.Headers), len(m.Query)
	return m, r, nil
}

// addMatch ignores a second match of one name, as the Gateway API wants it.
func addMatch(list []model.ValueMatch, m model.ValueMatch) []model.ValueMatch {
	for _, o := range list {
		if o.Name == m.Name {
			return list
		}
	}
	return append(list, m)
}

func pathMatch(in *gwv1.HTTPPathMatch) (model.PathMatch, int, *fault) {
	kind, value := gwv1.PathMatchPathPrefix, "/"
	if in != nil && in.Type != nil {
		kind = *in.Type
	}
	if in != nil && in.Value != nil {
		value = *in.Value
	}
	switch kind {
	case gwv1.PathMatchExact:
		return model.PathMatch{Type: model.MatchExact, Value: value}, classExact, asFault(validPath(value))
	case gwv1.PathMatchPathPrefix:
		return model.PathMatch{Type: model.MatchPrefix, Value: trimPrefixPath(value)}, classPrefix, asFault(validPath(value))
	case gwv1.PathMatchRegularExpression:
		return model.PathMatch{Type: model.MatchRegex, Value: value}, classRegex, asFault(validRegex(value))
	}
	return model.PathMatch{}, 0, unknownType("path match type %q is not known", short(string(kind)))
}

// headerMatch reads a header match of either route kind.
func headerMatch[T ~string](name string, kind *T, value string) (model.ValueMatch, *fault) {
	m := model.ValueMatch{Name: strings.ToLower(name), Type: model.MatchExact, Value: value}
	if err := validHeaderName(name); err != "" {
		return m, asFault(err)
	}
	return valueMatch(m, kind)
}

func queryMatch(q gwv1.HTTPQueryParamMatch) (model.ValueMatch, *fault) {
	m := model.ValueMatch{Name: string(q.Name), Type: model.MatchExact, Value: q.Value}
	if !validToken(m.Name) {
		return m, unsupported("%q is not a name of a query parameter", short(m.Name))
	}
	return valueMatch(m, q.Type)
}

func valueMatch[T ~string](m model.ValueMatch, kind *T) (model.ValueMatch, *fault) {
	if kind == nil || string(*kind) == string(model.MatchExact) {
		return m, asFault(validHeaderValue(m.Value))
	}
	if string(*kind) != string(model.MatchRegex) {
		return m, unknownType("match type %q of %q is not known", short(string(*kind)), m.Name)
	}
	m.Type = model.MatchRegex
	return m, asFault(validRegex(m.Value))
}

var (
	grpcService = regexp.MustCompile(`^\.?[A-Za-z_][A-Za-z_0-9]*(\.[A-Za-z_][A-Za-z_0-9]*)*$`)
	grpcMethod  = regexp.MustCompile(`^[A-Za-z_][A-Za-z_0-9]*$`)
)

// grpcMatch reads a match of a GRPCRoute. A call is POST /service/method.
func grpcMatch(in gwv1.GRPCRouteMatch) (model.Match, rank, *fault) {
	m := model.Match{GRPC: true, Path: model.PathMatch{Type: model.MatchPrefix, Value: "/"}}
	r := rank{1}
	if in.Method != nil {
		path, f := grpcPath(*in.Method)
		if f != nil {
			return m, r, f
		}
		m.Path = path
		if r[1], r[2] = len(deref(in.Method.Service)), len(deref(in.Method.Method)); isRegex(in.Method) {
			r[1], r[2], r[4] = 0, 0, r[1]+r[2]
		}
	}
	if len(in.Headers) > maxHeaders {
		return m, r, unsupported("more than %d header matches", maxHeaders)
	}
	for _, h := range in.Headers {
		vm, f := headerMatch(string(h.Name), h.Type, h.Value)
		if f != nil {
			return m, r, f
		}
		m.Headers = addMatch(m.Headers, vm)
	}
	r[3] = len(m.Headers)
	return m, r, nil
}

func isRegex(m *gwv1.GRPCMethodMatch) bool {
	return deref(m.Type) == gwv1.GRPCMethodMatchRegularExpression
}

func grpcPath(in gwv1.GRPCMethodMatch) (model.PathMatch, *fault) {
	service, method := deref(in.Service), deref(in.Method)
	if service == "" && method == "" {
		return model.PathMatch{}, unsupported("a method match names neither a service nor a method")
	}
	if len(service) > maxPath || len(method) > maxPath {
		return model.PathMatch{}, unsupported("service or method %q is longer than %d bytes", short(service+"/"+method), maxPath)
	}
	switch {
	case isRegex(&in):
		for _, r := range []string{service, method} {
			if err := validRegex(r); r != "" && err != "" {
				return model.PathMatch{}, asFault(err)
			}
		}
		return model.PathMatch{Type: model.MatchRegex, Value: "/" + orAny(service) + "/" + orAny(method)}, nil
	case in.Type != nil && *in.Type != gwv1.GRPCMethodMatchExact:
		return model.PathMatch{}, unknownType("method match type %q is not known", short(string(*in.Type)))
	case service != "" && !grpcService.MatchString(service), method != "" && !grpcMethod.MatchString(method):
		return model.PathMatch{}, unsupported("%q is not a gRPC service and method", short(service+"/"+method))
	case method == "":
		return model.PathMatch{Type: model.MatchPrefix, Value: "/" + service}, nil
	case service == "":
		return model.PathMatch{Type: model.MatchRegex, Value: "/[^/]+/" + regexp.QuoteMeta(method)}, nil
	}
	return model.PathMatch{Type: model.MatchExact, Value: "/" + service + "/" + method}, nil
}

func orAny(r string) string {
	if r == "" {
		return "[^/]+"
	}
	return "(?:" + r + ")"
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
