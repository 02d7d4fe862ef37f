package gateway

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var grpcRouteUnits = unitKind{
	name: "GRPCRoute", stage: stageRoutes, compute: grpcRoute,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.GRPCRoute] { return o.GRPCRoutes }),
}

// grpcRoute is the unit of a GRPCRoute: where it attaches, and its status.
func grpcRoute(v *view, key string) ([]output, bool) {
	r, ok := v.objs.GRPCRoutes.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	return v.attachRoute(grpcRouteInput(r)), true
}

func grpcRouteInput(r *gwv1.GRPCRoute) route {
	return route{
		ref:        grpcRouteRef(r.Namespace, r.Name),
		generation: r.Generation,
		created:    r.CreationTimestamp.Time,
		parents:    r.Spec.ParentRefs,
		hostnames:  r.Spec.Hostnames,
		compile: func(res *resolver) *compiled {
			return compileRules(res, kube.UnknownFieldsOf(r), r.Spec.Rules, grpcRule)
		},
	}
}

func grpcRule(res *resolver, i int, in gwv1.GRPCRouteRule) ([]rankedRule, string, *fault) {
	at := fmt.Sprintf("rules[%d]", i)
	rule := model.Rule{Route: res.route, Index: i, Name: orDefault(in.Name, "")}
	guard := res.guard(at, httpFilters(in.Filters))
	rules, f := grpcMatches(at, in.Matches)
	if f != nil {
		f.route = f.route || guard
		return nil, rule.Name, f
	}
	f = res.grpcAction(&rule, at, in)
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

// grpcMatches reads the matches of a rule; none means all calls.
func grpcMatches(at string, in []gwv1.GRPCRouteMatch) ([]rankedRule, *fault) {
	if len(in) == 0 {
		in = make([]gwv1.GRPCRouteMatch, 1)
	}
	if len(in) > maxMatches {
		return nil, unsupported("%s: more than %d matches", at, maxMatches)
	}
	var rules []rankedRule
	for j, m := range in {
		match, rank, f := grpcMatch(m)
		if f != nil {
			return nil, f.in(fmt.Sprintf("%s.matches[%d]", at, j))
		}
		rules = append(rules, rankedRule{Rule: model.Rule{Match: match}, rank: rank})
	}
	return rules, nil
}

// grpcAction reads what a rule does with the calls that match it.
func (r *resolver) grpcAction(rule *model.Rule, at string, in gwv1.GRPCRouteRule) *fault {
	if f := ruleName(at, in.Name); f != nil {
		return f
	}
	if f := r.filters(rule, at, httpFilters(in.Filters), false); f != nil {
		return f
	}
	refs := make([]gwv1.HTTPBackendRef, len(in.BackendRefs))
	for j, b := range in.BackendRefs {
		refs[j] = gwv1.HTTPBackendRef{BackendRef: b.BackendRef, Filters: httpFilters(b.Filters)}
	}
	if f := r.backends(rule, at, refs, false, true); f != nil {
		return f
	}
	if in.SessionPersistence != nil { //nolint:staticcheck // deprecated, and to be refused all the same
		return unsupported("%s: sessionPersistence is not supported", at)
	}
	return nil
}

// httpFilters turns the filters of a GRPCRoute into those of an HTTPRoute, of which they are a part. Types that only
// HTTPRoutes have are unknown here.
func httpFilters(in []gwv1.GRPCRouteFilter) []gwv1.HTTPRouteFilter {
	out := make([]gwv1.HTTPRouteFilter, len(in))
	for i, f := range in {
		out[i] = gwv1.HTTPRouteFilter{
			Type:                   gwv1.HTTPRouteFilterType(f.Type),
			RequestHeaderModifier:  f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier,
			RequestMirror:          f.RequestMirror,
			ExtensionRef:           f.ExtensionRef,
		}
	}
	return out
}
