package gateway

import (
	"fmt"
	"strings"
	"testing"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TestExpressionsOfARequestAreBounded: a request is compared with all expressions of its Service, or of its hostname. Elsewhere
// there is room for others of the namespace, and for other namespaces there.
func TestExpressionsOfARequestAreBounded(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName), sharedGateway())
	portsService(t, w, "greedy", "web", 1, 1, 1)
	portsService(t, w, "greedy", "other", 1, 1, 1)
	onGateway := func(namespace, name string, order, n int, hosts ...string) {
		r := regexRoute(namespace, name, order, n, "/a")
		r.Spec.CommonRouteSpec = hostsRoute(namespace, name, order, 1).Spec.CommonRouteSpec
		for _, h := range hosts {
			r.Spec.Hostnames = append(r.Spec.Hostnames, gwv1.Hostname(h))
		}
		w.put(t, r)
	}
	for i := range 3 {
		w.put(t, regexRoute("greedy", fmt.Sprint("mesh-", i), 10+i, 100, "/a"))
		onGateway("greedy", fmt.Sprint("host-", i), 20+i, 100, "a.greedy.example")
		onGateway("greedy", fmt.Sprint("wild-", i), 30+i, 100, fmt.Sprintf("*.w%d.example", i))
	}
	elsewhere := regexRoute("greedy", "elsewhere", 50, 100, "/a")
	elsewhere.Spec.ParentRefs[0].Name = "other"
	w.put(t, elsewhere)
	onGateway("greedy", "another-host", 51, 100, "b.greedy.example")
	onGateway("modest", "same-host", 52, 100, "a.greedy.example")
	w.Sync()
	for name, want := range map[string]bool{
		"mesh-1": true, "mesh-2": false, "host-1": true, "host-2": false, "wild-1": true, "wild-2": false, "elsewhere": true, "another-host": true,
	} {
		if got := w.accepted("greedy", name); got != want {
			t.Errorf("route %s is accepted: %t, want %t: %s", name, got, want, w.problemOf("HTTPRoute", "greedy", name))
		}
	}
	if !w.accepted("modest", "same-host") {
		t.Errorf("another namespace's route is not accepted: %s", w.problemOf("HTTPRoute", "modest", "same-host"))
	}
	if p := w.problemOf("HTTPRoute", "greedy", "host-2"); !strings.Contains(p, "200 of the 256 regular expressions") || !strings.Contains(p, "a.greedy.example") {
		t.Errorf("problem %q", p)
	}
}

// TestRequestExpressionsAreASetting: what an operator allows beyond the default is accepted, and no more.
func TestRequestExpressionsAreASetting(t *testing.T) {
	cfg := testConfig
	cfg.RequestExpressions = 400
	w := newWorld(cfg)
	portsService(t, w, "shop", "web", 1, 1, 1)
	for i := range 5 {
		w.put(t, regexRoute("shop", fmt.Sprint("r", i), i, 100, "/a"))
	}
	w.Sync()
	for i := range 5 {
		if got := w.accepted("shop", fmt.Sprint("r", i)); got != (i < 4) {
			t.Errorf("route r%d is accepted: %t", i, got)
		}
	}
	if p := w.problemOf("HTTPRoute", "shop", "r4"); !strings.Contains(p, "400 of the 400") || !strings.Contains(p, "requestExpressions") {
		t.Errorf("problem %q", p)
	}
}

// TestExactQueryValuesAreNoExpressions unless clients may encode them: then xds compares them by an expression.
func TestExactQueryValuesAreNoExpressions(t *testing.T) {
	rules := func(values ...string) []gwv1.HTTPRouteRule {
		m := gwv1.HTTPRouteMatch{}
		for _, v := range values {
			m.QueryParams = append(m.QueryParams, gwv1.HTTPQueryParamMatch{Name: "q", Value: v})
		}
		return []gwv1.HTTPRouteRule{{Matches: []gwv1.HTTPRouteMatch{m}}}
	}
	if n := httpPatterns(rules("one", "v1.2", "a-b_c~d", "")); n != 0 {
		t.Errorf("%d values that are sent as they are count as expressions", n)
	}
	if n := httpPatterns(rules("a b", "a/b", "é", "one")); n != 3 {
		t.Errorf("%d values count as expressions, want 3", n)
	}
}
