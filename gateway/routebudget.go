package gateway

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// What all routes of the cluster may take of an Envoy that loads all of their tables.
const (
	maxTableMatches = 1 << 17 // some 5 KiB each
	maxExpressionKB = 256 << 10
)

// routeDemand is what a route would take of an Envoy, in all route tables and hosts that it may be in.
type routeDemand struct {
	route       string // model.ObjectRef.String
	namespace   string
	created     time.Time
	matches     int
	expressions int // KiB
}

// routeRefusal is a route that is over its namespace's budget.
type routeRefusal struct{ route, why string }

func newRouteDemands(db *state.DB) *state.Table[*routeDemand] {
	return state.NewTable(db, "gateway-route-demands", func(d *routeDemand) string { return d.route })
}

func newRouteRefusals(db *state.DB) *state.Table[*routeRefusal] {
	return state.NewTable(db, "gateway-route-refusals", func(r *routeRefusal) string { return r.route })
}

var httpDemandUnits = unitKind{
	name: "demand of an HTTPRoute", stage: stageDemands,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.HTTPRoute] { return o.HTTPRoutes }),
	compute: func(v *view, key string) ([]output, bool) {
		r, ok := v.objs.HTTPRoutes.Get(v.Snapshot, key)
		if !ok {
			return nil, false
		}
		matches, kb := httpDemand(r.Spec.Rules)
		return v.routeDemand(httpRouteInput(r), matches, kb), true
	},
}

var grpcDemandUnits = unitKind{
	name: "demand of a GRPCRoute", stage: stageDemands,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.GRPCRoute] { return o.GRPCRoutes }),
	compute: func(v *view, key string) ([]output, bool) {
		r, ok := v.objs.GRPCRoutes.Get(v.Snapshot, key)
		if !ok {
			return nil, false
		}
		matches, kb := grpcDemand(r.Spec.Rules)
		return v.routeDemand(grpcRouteInput(r), matches, kb), true
	},
}

// routeDemand multiplies what a route takes in one route table by the number of its attachments.
func (v *view) routeDemand(r route, matches, kb int) []output {
	n := v.countAttachments(&r)
	if n == 0 {
		return nil
	}
	d := &routeDemand{
		route: r.ref.String(), namespace: r.ref.Namespace, created: r.created, matches: matches * n, expressions: kb * n,
	}
	return []output{out(v.routeDemands, d.route, d)}
}

// countAttachments counts the route tables, and in those of Gateways the hosts, that a route may be in.
func (v *view) countAttachments(r *route) int {
	n := 0
	for _, p := range r.parents[:min(len(r.parents), maxParents)] {
		ref := parentObject(p, r.ref.Namespace)
		key := model.Key(ref.Namespace, ref.Name)
		switch {
		case ref.Kind == "Service" && ref.Group == "":
			hosts := max(min(len(r.hostnames), maxHostnames), 1)
			if r.ref.Kind != "TLSRoute" {
				hosts = 1 // the table of a Service has no hosts
			}
			if svc, ok := v.objs.Services.Get(v.Snapshot, key); ok && p.Port == nil && orDefault(p.SectionName, "") == "" {
				n += hosts * min(len(svc.Spec.Ports), maxServicePorts)
			} else if ok {
				n += hosts
			}
		case (ref.Kind == "Gateway" || ref.Kind == "ListenerSet") && ref.Group == gwv1.GroupName:
			merged := v.listenersOf(ref)
			if merged == nil {
				continue
			}
			listeners := len(merged.listeners)
			if orDefault(p.SectionName, "") != "" {
				listeners = 1
			}
			n += listeners * max(min(len(r.hostnames), maxHostnames), 1)
		}
	}
	return n
}

// countMatches counts the matches of a route's rules; a rule without one matches all. ok is false where there are more
// rules or matches than a route may have: it is refused for that, and takes nothing.
func countMatches[R any](rules []R, of func(R) int) (n int, ok bool) {
	if len(rules) > maxRules {
		return 0, false
	}
	for _, r := range rules {
		n += max(of(r), 1)
	}
	return n, n <= maxMatches
}

// httpDemand returns the matches of an HTTPRoute and what its expressions take, in KiB. A match of a rule whose backends
// rewrite counts once a backend, for each is a route of Envoy. Rules that are refused for their number take nothing.
func httpDemand(rules []gwv1.HTTPRouteRule) (_, kb int) {
	matches, ok := countMatches(rules, func(r gwv1.HTTPRouteRule) int { return len(r.Matches) })
	if !ok {
		return 0, 0
	}
	for _, r := range rules {
		if slices.ContainsFunc(r.BackendRefs, rewrites) {
			matches += max(len(r.Matches), 1) * (len(r.BackendRefs) - 1)
		}
		for _, m := range r.Matches {
			if kb > maxExpressionKB {
				return matches, kb // more than all may have
			}
			if m.Path != nil && deref(m.Path.Type) == gwv1.PathMatchRegularExpression {
				kb += expressionKB(deref(m.Path.Value))
			}
			for _, h := range m.Headers[:min(len(m.Headers), maxHeaders)] {
				if deref(h.Type) == gwv1.HeaderMatchRegularExpression {
					kb += expressionKB(h.Value)
				}
			}
			for _, q := range m.QueryParams[:min(len(m.QueryParams), maxHeaders)] {
				kb += queryKB(q)
			}
		}
	}
	return max(matches, 1), kb
}

func rewrites(b gwv1.HTTPBackendRef) bool {
	return slices.ContainsFunc(b.Filters, func(f gwv1.HTTPRouteFilter) bool { return f.Type == gwv1.HTTPRouteFilterURLRewrite })
}

// queryKB counts an exact value too if it needs an expression, because clients may encode it.
func queryKB(q gwv1.HTTPQueryParamMatch) int {
	switch {
	case deref(q.Type) == gwv1.QueryParamMatchRegularExpression:
		return expressionKB(q.Value)
	case url.QueryEscape(q.Value) != q.Value:
		return kbOfExpression + len(q.Value)
	}
	return 0
}

func grpcDemand(rules []gwv1.GRPCRouteRule) (_, kb int) {
	matches, ok := countMatches(rules, func(r gwv1.GRPCRouteRule) int { return len(r.Matches) })
	if !ok {
		return 0, 0
	}
	for _, r := range rules {
		for _, m := range r.Matches {
			if kb > maxExpressionKB {
				return matches, kb // more than all may have
			}
			if m.Method != nil {
				if path, f := grpcPath(*m.Method); f == nil && path.Type == model.MatchRegex {
					kb += max(expressionKB(path.Value), kbOfExpression)
				}
			}
			for _, h := range m.Headers[:min(len(m.Headers), maxHeaders)] {
				if deref(h.Type) == gwv1.GRPCHeaderMatchRegularExpression {
					kb += expressionKB(h.Value)
				}
			}
		}
	}
	return max(matches, 1), kb
}

// routeBudgetUnit divides what Envoy can hold among the namespaces of routes, as budgetUnit does the kernel's tables.
var routeBudgetUnit = unitKind{name: "route budget", stage: stageBudgets, compute: divideRoutes}

func divideRoutes(v *view, _ string) ([]output, bool) {
	return divideAmong(v.cfg, v.routeDemands.All(v.Snapshot), [2]int{maxTableMatches, maxExpressionKB},
		func(d *routeDemand) (string, [2]int) { return d.namespace, [2]int{d.matches, d.expressions} },
		func(over []*routeDemand, share [2]int) (outs []output) {
			for _, r := range refuseRoutes(over, share[0], share[1]) {
				outs = append(outs, out(v.routeRefusals, r.route, r))
			}
			return outs
		}), true
}

// refuseRoutes returns the routes of a namespace that the older ones leave no room for.
func refuseRoutes(demands []*routeDemand, matches, kb int) []*routeRefusal {
	slices.SortFunc(demands, func(a, b *routeDemand) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.route, b.route))
	})
	ofMatches, ofKB := matches, kb
	var out []*routeRefusal
	for _, d := range demands {
		if d.matches <= matches && d.expressions <= kb {
			matches, kb = matches-d.matches, kb-d.expressions
			continue
		}
		out = append(out, &routeRefusal{d.route, fmt.Sprintf(
			"older routes of the namespace leave %d of its %d matches and %d KiB of its %d for regular expressions, and this one has %d and %d KiB, "+
				"counted once for each Service port, listener and hostname; use fewer or simpler expressions, or raise --namespace-share (chart value namespaceShare)",
			matches, ofMatches, kb, ofKB, d.matches, d.expressions)})
	}
	return out
}

// overBudget is the fault of a route that is over its namespace's budget.
func (a *attacher) overBudget() *fault {
	if r, ok := a.v.routeRefusals.Get(a.v.Snapshot, a.route.ref.String()); ok {
		return unsupported("%s", r.why)
	}
	return nil
}
