package gateway

import (
	"fmt"
	"strings"
	"testing"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// regexRoute is an HTTPRoute on Service web of its namespace with n path expressions. Routes of a higher order are younger.
func regexRoute(namespace, name string, order, n int, expression string) *gwv1.HTTPRoute {
	r := serviceRoute(namespace, name, "web", 1)
	r.ObjectMeta = created(namespace, name, 1000-order)
	kind := gwv1.PathMatchRegularExpression
	backends := r.Spec.Rules[0].BackendRefs
	r.Spec.Rules = nil
	for i := range n {
		if i%16 == 0 {
			r.Spec.Rules = append(r.Spec.Rules, gwv1.HTTPRouteRule{BackendRefs: backends})
		}
		last := &r.Spec.Rules[len(r.Spec.Rules)-1]
		last.Matches = append(last.Matches, gwv1.HTTPRouteMatch{Path: &gwv1.HTTPPathMatch{Type: &kind, Value: new(fmt.Sprint(expression, "x", i))}})
	}
	return r
}

// expressions counts the expressions of a Service's route table that come from routes, by namespace.
func (w *world) expressions(namespace string) int {
	t, ok := w.st.RouteTables.Get(w.st.Snapshot(), model.ServiceTable(namespace, "web", 1))
	n := 0
	for i := range t.VirtualHosts {
		for _, r := range t.VirtualHosts[i].Rules {
			if ok && r.Match.Path.Type == model.MatchRegex {
				n++
			}
		}
	}
	return n
}

func (w *world) accepted(namespace, name string) bool {
	s, ok := w.st.Statuses.Get(w.st.Snapshot(), httpRouteRef(namespace, name).String())
	return ok && len(s.Parents) == 1 && s.Parents[0].Conditions[0].Status
}

// TestExpressionsHaveABudget: 40 routes of 128 expressions took 1.33 GB of Envoy's heap with one request. The older ones stay
// as far as they fit, and routes of others, which are younger, stay too.
func TestExpressionsHaveABudget(t *testing.T) {
	const expression = "/.*a.{20}"
	w := newWorld(testConfig)
	for _, ns := range []string{"greedy", "modest"} {
		portsService(t, w, ns, "web", 1, 1, 1)
	}
	w.put(t, regexRoute("greedy", "first", 0, 8, expression))
	for i := range 10 {
		w.put(t, regexRoute("greedy", fmt.Sprint("r", i), i+1, 128, expression))
	}
	w.put(t, regexRoute("greedy", "plain", 90, 16, "/[a-z]+/[0-9]+"), regexRoute("modest", "r", 99, 8, expression))
	w.Sync()
	const most = maxExpressionKB / 4 / kbOfAutomaton
	if n := w.expressions("greedy"); n < 8 || n > most+16 {
		t.Errorf("the greedy namespace has %d expressions, and %d of that kind fit", n, most)
	}
	for name, want := range map[string]bool{"first": true, "r0": false, "r9": false, "plain": true} {
		if got := w.accepted("greedy", name); got != want {
			t.Errorf("route %s is accepted: %v, want %v", name, got, want)
		}
	}
	if n := w.expressions("modest"); n != 8 {
		t.Errorf("the other namespace has %d expressions, want 8", n)
	}
	if p := w.problemOf("HTTPRoute", "greedy", "r9"); !strings.Contains(p, "UnsupportedValue") || !strings.Contains(p, "namespaceShare") {
		t.Errorf("problem of the youngest: %q", p)
	}
}

// TestOrdinaryExpressionsFit: thousands of them.
func TestOrdinaryExpressionsFit(t *testing.T) {
	for _, expression := range []string{"/[a-z]+/[0-9]+", "/api/v[0-9]/users/[^/]+/orders", "/(?:a|b|c)/.*", `/items/\d+(\.json)?`, "(?i:/admin.*)", `/\p{L}+`} {
		if kb := expressionKB(expression); kb < kbOfExpression || kb > 40 {
			t.Errorf("%s takes %d KiB", expression, kb)
		}
	}
	for _, expression := range []string{"/.*a.{20}", "/(?i:.*(abc|abd).{8}){20}"} {
		if kb := expressionKB(expression); kb < kbOfAutomaton {
			t.Errorf("%s takes %d KiB, and Envoy may take %d", expression, kb, kbOfAutomaton)
		}
	}
	if kb := expressionKB("("); kb != 0 {
		t.Errorf("an invalid expression takes %d KiB", kb)
	}
}

// TestARouteInManyPlacesCountsManyTimes: each port has a table of its own.
func TestARouteInManyPlacesCountsManyTimes(t *testing.T) {
	w := newWorld(testConfig)
	portsService(t, w, "greedy", "web", 1, 2048, 1)
	for i := range 2 {
		w.put(t, regexRoute("greedy", fmt.Sprint("r", i), i+1, 128, "/a"))
	}
	w.Sync()
	for i := range 2 {
		if w.accepted("greedy", fmt.Sprint("r", i)) {
			t.Errorf("route %d is accepted: %d matches in %d places", i, 128, 2048)
		}
	}
}

// TestLongRulesCountMore: each match of a rule has the rule's filters. Four routes of 128 matches with 250 KB of headers took some
// GB.
func TestLongRulesCountMore(t *testing.T) {
	w := newWorld(testConfig)
	portsService(t, w, "greedy", "web", 1, 1, 1)
	var long gwv1.HTTPHeaderFilter
	for i := range 16 {
		long.Set = append(long.Set, gwv1.HTTPHeader{Name: gwv1.HTTPHeaderName(fmt.Sprint("a", i)), Value: strings.Repeat("x", 4000)})
	}
	for i := range 10 {
		r := prefixes(regexRoute("greedy", fmt.Sprint("r", i), i+1, 64, "/a"))
		for j := range r.Spec.Rules {
			r.Spec.Rules[j].Filters = []gwv1.HTTPRouteFilter{{Type: gwv1.HTTPRouteFilterRequestHeaderModifier, RequestHeaderModifier: &long}}
		}
		w.put(t, r)
	}
	w.put(t, prefixes(regexRoute("greedy", "short", 90, 64, "/a")))
	w.Sync()
	n := 0
	for i := range 10 {
		if w.accepted("greedy", fmt.Sprint("r", i)) {
			n++
		}
	}
	// Each of them has 64 matches of two routes of Envoy with 64 KB.
	if most := maxTableMatches * bytesOfMatch / 4 / (64 * 2 * 64_000); n == 0 || n > most {
		t.Errorf("%d of 10 routes with 4 MB of headers each are accepted, and %d fit", n, most)
	}
	if !w.accepted("greedy", "short") {
		t.Errorf("a short one is not accepted: %s", w.problemOf("HTTPRoute", "greedy", "short"))
	}
}

// prefixes makes prefixes of a route's expressions.
func prefixes(r *gwv1.HTTPRoute) *gwv1.HTTPRoute {
	for i := range r.Spec.Rules {
		for j := range r.Spec.Rules[i].Matches {
			r.Spec.Rules[i].Matches[j].Path.Type = nil
		}
	}
	return r
}

// TestWildcardOriginsCount: each is an expression, in each route of each match.
func TestWildcardOriginsCount(t *testing.T) {
	w := newWorld(testConfig)
	portsService(t, w, "greedy", "web", 1, 1, 1)
	r := regexRoute("greedy", "cors", 1, 128, "/a")
	for i := range r.Spec.Rules {
		cors := &gwv1.HTTPCORSFilter{}
		for j := range maxCORS {
			cors.AllowOrigins = append(cors.AllowOrigins, gwv1.CORSOrigin(fmt.Sprintf("https://*.o%d.example", j)))
		}
		r.Spec.Rules[i].Filters = []gwv1.HTTPRouteFilter{{Type: gwv1.HTTPRouteFilterCORS, CORS: cors}}
	}
	w.put(t, r)
	w.Sync()
	if w.accepted("greedy", "cors") {
		t.Errorf("a route of %d expressions is accepted", 128*maxCORS)
	}
}
