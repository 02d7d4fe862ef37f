package gateway

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

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
			return compileRules(res, r.Spec.Rules, grpcRule)
		},
	}
}

func grpcRule(res *resolver, i int, in gwv1.GRPCRouteRule) ([]rankedRule, string, *fault) {
	at := fmt.Sprintf("rules[%d]", i)
	rule := model.Rule{Route: res.route, Index: i, Name: orDefault(in.Name, "")}
	if f := ruleName(at, in.Name); f != nil {
		return nil, "", f
	}
	blocked, f := res.filters(&rule, at, httpFilters(in.Filters), false)
	if f != nil {
		return nil, rule.Name, f
	}
	refs := make([]gwv1.HTTPBackendRef, len(in.BackendRefs))
	for j, b := range in.BackendRefs {
		refs[j] = gwv1.HTTPBackendRef{BackendRef: b.BackendRef, Filters: httpFilters(b.Filters)}
	}
	if f := res.backends(&rule, at, refs, true); f != nil {
		return nil, rule.Name, f
	}
	if in.SessionPersistence != nil {
		return nil, rule.Name, unsupported("%s: sessionPersistence is not supported", at)
	}
	if blocked {
		rule = model.Rule{Route: rule.Route, Index: rule.Index, Name: rule.Name, Status: 500}
	}
	matches := in.Matches
	if len(matches) == 0 {
		matches = make([]gwv1.GRPCRouteMatch, 1)
	}
	if len(matches) > maxMatches {
		return nil, rule.Name, unsupported("%s: more than %d matches", at, maxMatches)
	}
	var rules []rankedRule
	for j, m := range matches {
		match, rank, f := grpcMatch(m)
		if f != nil {
			return nil, rule.Name, unsupported("%s.matches[%d]: %s", at, j, f.message)
		}
		ranked := rankedRule{Rule: rule, rank: rank}
		ranked.Match = match
		rules = append(rules, ranked)
	}
	return rules, rule.Name, nil
}

// httpFilters turns the filters of a GRPCRoute into those of an HTTPRoute, of which they are a part. Types that only
// HTTPRoutes have stay unknown here.
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
