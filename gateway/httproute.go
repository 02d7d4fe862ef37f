package gateway

import (
	"fmt"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var httpRouteUnits = unitKind{
	name: "HTTPRoute", stage: stageRoutes, compute: httpRoute,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.HTTPRoute] { return o.HTTPRoutes }),
}

// httpRoute is the unit of an HTTPRoute: where it attaches, and its status.
func httpRoute(v *view, key string) ([]output, bool) {
	r, ok := v.objs.HTTPRoutes.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	return v.attachRoute(httpRouteInput(r)), true
}

func httpRouteInput(r *gwv1.HTTPRoute) route {
	return route{
		ref:        httpRouteRef(r.Namespace, r.Name),
		generation: r.Generation,
		created:    r.CreationTimestamp.Time,
		parents:    r.Spec.ParentRefs,
		hostnames:  r.Spec.Hostnames,
		compile: func(res *resolver) *compiled {
			return compileRules(res, kube.UnknownFieldsOf(r), r.Spec.Rules, httpRule)
		},
	}
}

// compiled is a route's rules, one for each match, with what is wrong with the others.
type compiled struct {
	rules []rankedRule // in order of precedence
	// dropped holds the rules that are not valid.
	dropped problems
	refs    problems
	// closed reports whether all rules are blocked, for fields that are not known: the route is not accepted, and is attached all the
	// same. Without it, its requests could match another route, or a Service's would go by no route.
	closed bool
}

// rankedRule is a rule with its precedence.
type rankedRule struct {
	model.Rule
	rank rank
}

// compileRules reads the rules of either route kind. A route without rules has one, which matches everything and has no
// backends. unknown are fields of the route that are not known.
func compileRules[R any](res *resolver, unknown kube.UnknownFields, in []R, read func(*resolver, int, R) ([]rankedRule, string, *fault)) *compiled {
	c := &compiled{}
	if len(in) > maxRules {
		c.dropped.add(string(gwv1.RouteReasonUnsupportedValue), fmt.Sprintf("more than %d rules", maxRules))
		return c
	}
	if len(in) == 0 {
		in = make([]R, 1)
	}
	names := map[string]bool{}
	refused := false
	c.closed = true
	for i, r := range in {
		res.unknown = unknown.Of("spec.rules", i)
		c.closed = c.closed && len(res.unknown) > 0
		if m := res.unknown.Message(); m != "" {
			c.dropped.add(string(gwv1.RouteReasonUnsupportedValue), m+res.closes())
		}
		rules, name, f := read(res, i, r)
		if name != "" && names[name] {
			f = unsupported("rules[%d]: name %q is there twice", i, short(name))
		}
		if f != nil {
			c.dropped.add(f.reason, f.message)
			refused = refused || f.route
			continue
		}
		names[name] = true
		c.rules = append(c.rules, rules...)
	}
	if refused {
		c.rules = nil
	}
	if res.unknownType != nil {
		c.dropped.add(res.unknownType.reason, res.unknownType.message)
		c.closed = true
		for i := range c.rules {
			c.rules[i].Rule = blocked(c.rules[i].Rule)
		}
	}
	if len(c.rules) > maxMatches {
		c.rules = nil
		c.dropped.add(string(gwv1.RouteReasonUnsupportedValue), fmt.Sprintf("more than %d matches", maxMatches))
	}
	slices.SortStableFunc(c.rules, func(a, b rankedRule) int { return a.rank.compare(b.rank) })
	c.refs = res.refs
	return c
}

// noteUnknownType notes the fault of a rule with fields that are not known, if the API demands that the route is not accepted for it.
func (r *resolver) noteUnknownType(f *fault) {
	if f != nil && f.route && len(r.unknown) > 0 {
		r.unknownType = f
	}
}

// closes says what a rule with a field that is not known does.
func (r *resolver) closes() string {
	if r.bytes {
		return "; nothing is passed on"
	}
	return "; the rule answers 500"
}

func httpRule(res *resolver, i int, in gwv1.HTTPRouteRule) ([]rankedRule, string, *fault) {
	at := fmt.Sprintf("rules[%d]", i)
	rule := model.Rule{Route: res.route, Index: i, Name: orDefault(in.Name, "")}
	guard := res.guard(at, in.Filters)
	rules, prefixOnly, f := httpMatches(at, in.Matches)
	if f != nil {
		f.route = f.route || guard
		return nil, rule.Name, f
	}
	f = res.httpAction(&rule, at, in, prefixOnly)
	switch {
	case guard:
		res.noteUnknownType(f)
		rule = blocked(rule)
	case f != nil:
		return nil, rule.Name, f
	}
	for j := range rules {
		m := rules[j].Match
		rules[j].Rule = rule
		rules[j].Match = m
	}
	return rules, rule.Name, nil
}

// httpAction reads what a rule does with the requests that match it.
func (r *resolver) httpAction(rule *model.Rule, at string, in gwv1.HTTPRouteRule, prefixOnly bool) *fault {
	if f := ruleName(at, in.Name); f != nil {
		return f
	}
	if f := r.filters(rule, at, in.Filters, prefixOnly); f != nil {
		return f
	}
	if rule.Redirect != nil && len(in.BackendRefs) > 0 {
		return &fault{reason: string(gwv1.RouteReasonIncompatibleFilters), message: at + ": RequestRedirect cannot be used together with backendRefs"}
	}
	if f := r.backends(rule, at, in.BackendRefs, prefixOnly, false); f != nil {
		return f
	}
	if f := timeouts(rule, at, in.Timeouts, in.Retry); f != nil {
		return f
	}
	if in.SessionPersistence != nil { //nolint:staticcheck // deprecated, and to be refused all the same
		return unsupported("%s: sessionPersistence is not supported", at)
	}
	return nil
}

// blocked is a rule that answers 500 whatever it was to do. One of connections closes them.
func blocked(rule model.Rule) model.Rule {
	return model.Rule{Route: rule.Route, Index: rule.Index, Name: rule.Name, Match: rule.Match, Status: 500}
}

// httpMatches reads the matches of a rule; none means all requests. prefixOnly is true if each is of a path prefix.
func httpMatches(at string, in []gwv1.HTTPRouteMatch) (rules []rankedRule, prefixOnly bool, f *fault) {
	if len(in) == 0 {
		in = make([]gwv1.HTTPRouteMatch, 1)
	}
	if len(in) > maxMatches {
		return nil, false, unsupported("%s: more than %d matches", at, maxMatches)
	}
	prefixOnly = true
	for j, m := range in {
		match, rank, f := httpMatch(m)
		if f != nil {
			return nil, false, f.in(fmt.Sprintf("%s.matches[%d]", at, j))
		}
		prefixOnly = prefixOnly && match.Path.Type == model.MatchPrefix
		rules = append(rules, rankedRule{Rule: model.Rule{Match: match}, rank: rank})
	}
	return rules, prefixOnly, nil
}

func ruleName(at string, name *gwv1.SectionName) *fault {
	if name == nil || *name == "" {
		return nil
	}
	if err := validHostname(string(*name), false); err != "" || strings.HasPrefix(string(*name), "*") {
		return unsupported("%s: %q is not a name of a rule", at, short(string(*name)))
	}
	return nil
}

func timeouts(rule *model.Rule, at string, in *gwv1.HTTPRouteTimeouts, retry *gwv1.HTTPRouteRetry) *fault {
	if in != nil {
		if in.Request != nil {
			d, err := parseDuration(*in.Request)
			if err != "" {
				return unsupported("%s.timeouts.request: %s", at, err)
			}
			rule.Timeout = &d
		}
		if in.BackendRequest != nil {
			d, err := parseDuration(*in.BackendRequest)
			if err != "" {
				return unsupported("%s.timeouts.backendRequest: %s", at, err)
			}
			if rule.Timeout != nil && *rule.Timeout != 0 && d > *rule.Timeout {
				return unsupported("%s: timeouts.backendRequest is longer than timeouts.request", at)
			}
			rule.BackendTimeout = &d
		}
	}
	if retry == nil {
		return nil
	}
	out := &model.Retry{Attempts: 1}
	for _, c := range retry.Codes {
		if c < 400 || c > 599 {
			return unsupported("%s.retry: code %d is not between 400 and 599", at, c)
		}
		if !slices.Contains(out.Codes, int(c)) {
			out.Codes = append(out.Codes, int(c))
		}
	}
	if retry.Attempts != nil {
		if out.Attempts = *retry.Attempts; out.Attempts < 0 || out.Attempts > maxAttempts {
			return unsupported("%s.retry: attempts %d is not between 0 and %d", at, out.Attempts, maxAttempts)
		}
	}
	if retry.Backoff != nil {
		d, err := parseDuration(*retry.Backoff)
		if err != "" {
			return unsupported("%s.retry.backoff: %s", at, err)
		}
		out.Backoff = d
	}
	rule.Retry = out
	return nil
}
