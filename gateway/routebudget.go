package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
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
	route     string // model.ObjectRef.String
	namespace string
	created   time.Time
	load
	each load // of a route table without hosts, or of one host
	// hosts are those that it may have on listeners of Gateways.
	hosts []listenerHosts
	// patterns is how many of its expressions a request may be compared with.
	patterns int
	services []string // keys of those that it names as parents
}

// load is a part of what routes take of an Envoy.
type load struct {
	matches     int
	expressions int // KiB
}

func (l load) times(n int) load { return load{l.matches * n, l.expressions * n} }

func (l load) plus(o load) load { return load{l.matches + o.matches, l.expressions + o.expressions} }

func (l load) minus(o load) load { return l.plus(o.times(-1)) }

// within reports whether there is room for it.
func (l load) within(room load) bool {
	return l.matches <= room.matches && l.expressions <= room.expressions
}

// shareOf returns the larger of the shares that it takes of each.
func (l load) shareOf(all load) float64 {
	return max(float64(l.matches)/float64(all.matches), float64(l.expressions)/float64(all.expressions))
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
		return v.routeDemand(httpRouteInput(r), httpDemand(r.Spec.Rules), httpPatterns(r.Spec.Rules)), true
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
		return v.routeDemand(grpcRouteInput(r), grpcDemand(r.Spec.Rules), grpcPatterns(r.Spec.Rules)), true
	},
}

// routeDemand multiplies what a route takes in one route table by the number of its attachments.
func (v *view) routeDemand(r route, each load, patterns int) []output {
	n := v.countAttachments(&r)
	if n == 0 {
		return nil
	}
	d := &routeDemand{
		route: r.ref.String(), namespace: r.ref.Namespace, created: r.created, load: each.times(n), each: each, hosts: v.hostDemand(&r),
		patterns: patterns, services: r.servicesOf(),
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

// httpDemand returns what an HTTPRoute takes of one route table, or of one host. A match of a rule whose backends rewrite counts once a backend, for each
// is a route of Envoy. Rules that are refused for their number take nothing.
func httpDemand(rules []gwv1.HTTPRouteRule) load {
	n, ok := countMatches(rules, func(r gwv1.HTTPRouteRule) int { return len(r.Matches) })
	if !ok {
		return load{}
	}
	sum := load{matches: max(n, 1)}
	for _, r := range rules {
		matches, routes := max(len(r.Matches), 1), routesOfMatch
		if slices.ContainsFunc(r.BackendRefs, rewrites) {
			sum.matches += matches * (len(r.BackendRefs) - 1)
			routes *= len(r.BackendRefs)
		}
		if origins, ok := wildOrigins(r.Filters); ok {
			routes *= 2 // those of preflights
			sum.expressions += matches * routes * origins * kbOfExpression
		}
		for _, m := range r.Matches {
			if sum.expressions > maxExpressionKB {
				return sum // more than all may have
			}
			sum.expressions += httpExpressions(m)
		}
		sum.matches += textMatches(r.Matches, matches, routes)
		r.Matches = nil
		sum.matches += textMatches(r, 1, routes*matches)
	}
	return sum
}

// httpExpressions returns what the expressions of a match take, in KiB.
func httpExpressions(m gwv1.HTTPRouteMatch) (kb int) {
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
	return kb
}

// routesOfMatch is how many routes of Envoy a match becomes: one for methods that may be repeated, one for others.
const routesOfMatch = 2

// textMatches returns the number of matches that a part of a route counts for besides those that it has. number is that of ordinary
// parts, routes that of Envoy's routes with a copy of it: a rule may have filters of a megabyte, and each of its matches has them.
func textMatches(part any, number, routes int) int {
	text, err := json.Marshal(part)
	if err != nil {
		return maxTableMatches // an object of the API can be written
	}
	heap := heapOfByte*len(text) + heapOfObject*bytes.Count(text, []byte("{"))
	return max(heap-ordinary*number, 0) * routes / bytesOfMatch
}

// What parts of a route take of Envoy's heap, by measurement with Envoy 1.40.
const (
	bytesOfMatch = 5 << 10 // of an ordinary match in routesOfMatch routes
	ordinary     = 1 << 10 // of what is below, in the rule or the match that makes it ordinary
	heapOfByte   = 4       // of a route's JSON
	heapOfObject = 512     // in the JSON: a header, a backend, a filter
)

// wildOrigins counts the origins of a CORS filter that are compared by an expression; ok is false if there is no such filter.
func wildOrigins(in []gwv1.HTTPRouteFilter) (n int, ok bool) {
	for _, f := range in {
		if f.CORS == nil {
			continue
		}
		ok = true
		for _, o := range f.CORS.AllowOrigins[:min(len(f.CORS.AllowOrigins), maxCORS)] {
			if o != "*" && strings.Contains(string(o), "*") {
				n++
			}
		}
	}
	return n, ok
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

func grpcDemand(rules []gwv1.GRPCRouteRule) load {
	n, ok := countMatches(rules, func(r gwv1.GRPCRouteRule) int { return len(r.Matches) })
	if !ok {
		return load{}
	}
	sum := load{matches: max(n, 1)}
	for _, r := range rules {
		for _, m := range r.Matches {
			if sum.expressions > maxExpressionKB {
				return sum // more than all may have
			}
			sum.expressions += grpcExpressions(m)
		}
		matches := max(len(r.Matches), 1)
		sum.matches += textMatches(r.Matches, matches, routesOfMatch)
		r.Matches = nil
		sum.matches += textMatches(r, 1, routesOfMatch*matches)
	}
	return sum
}

// grpcExpressions returns what the expressions of a match take, in KiB.
func grpcExpressions(m gwv1.GRPCRouteMatch) (kb int) {
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
	return kb
}

// routeBudgetUnit divides what Envoy can hold among the namespaces of routes, as budgetUnit does the kernel's tables.
var routeBudgetUnit = unitKind{name: "route budget", stage: stageBudgets, compute: divideRoutes}

// divideRoutes takes the older routes first, and refuses those that the older ones of their namespace leave no room for. What a
// namespace asks for, and what it is refused, follows from its own routes.
func divideRoutes(v *view, _ string) (outs []output, _ bool) {
	demands := slices.SortedFunc(v.routeDemands.All(v.Snapshot), func(a, b *routeDemand) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.route, b.route))
	})
	matches, expressions := map[string]int{}, map[string]int{}
	asked := newHostCopies()
	for _, d := range demands {
		ask := d.plus(asked.add(d))
		matches[d.namespace] += ask.matches
		expressions[d.namespace] += ask.expressions
	}
	ofMatches := v.cfg.shares(maxTableMatches, sharedCopies.matches, matches)
	ofExpressions := v.cfg.shares(maxExpressionKB, sharedCopies.expressions, expressions)
	copies, compared, room := newHostCopies(), newPatternCounts(v.cfg), map[string]load{}
	for _, d := range demands {
		share := load{ofMatches(d.namespace), ofExpressions(d.namespace)}
		left, ok := room[d.namespace]
		if !ok {
			left = share
		}
		ask := d.plus(copies.of(d))
		why := compared.refusal(d)
		if !ask.within(left) {
			why = refusalOf(ask, left, share)
		}
		if why != "" {
			outs = append(outs, out(v.routeRefusals, d.route, &routeRefusal{d.route, why}))
			continue
		}
		copies.add(d)
		compared.add(d)
		room[d.namespace] = left.minus(ask)
	}
	for _, r := range copies.refusals() {
		outs = append(outs, out(v.fallbackRefusals, r.listener, r))
	}
	return outs, true
}

func refusalOf(ask, left, share load) string {
	return fmt.Sprintf("older routes of the namespace leave %d of its %d matches and %d KiB of its %d for regular expressions, and this one has %d and %d KiB, "+
		"counted once for each Service port, listener and hostname, for each narrower hostname that the namespace has on a listener, and more if its rules are long; "+
		"use fewer or simpler expressions and shorter rules, or raise --namespace-share (chart value namespaceShare)",
		left.matches, share.matches, left.expressions, share.expressions, ask.matches, ask.expressions)
}

// overBudget is the fault of a route that is over its namespace's budget.
func (a *attacher) overBudget() *fault {
	if r, ok := a.v.routeRefusals.Get(a.v.Snapshot, a.route.ref.String()); ok {
		return unsupported("%s", r.why)
	}
	return nil
}
