package gateway

import (
	"fmt"
	"testing"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// hostsRoute is an HTTPRoute on Gateway infra/gw with n matches for hosts. Routes of a higher order are younger.
func hostsRoute(namespace, name string, order, n int, hosts ...string) *gwv1.HTTPRoute {
	r := &gwv1.HTTPRoute{ObjectMeta: created(namespace, name, 1000-order)}
	r.Spec.ParentRefs = []gwv1.ParentReference{{Name: "gw", Namespace: new(gwv1.Namespace("infra"))}}
	for _, h := range hosts {
		r.Spec.Hostnames = append(r.Spec.Hostnames, gwv1.Hostname(h))
	}
	rule := gwv1.HTTPRouteRule{}
	for i := range n {
		rule.Matches = append(rule.Matches, gwv1.HTTPRouteMatch{Path: &gwv1.HTTPPathMatch{Value: new(fmt.Sprint("/p", i))}})
	}
	r.Spec.Rules = []gwv1.HTTPRouteRule{rule}
	return r
}

// narrowRoutes are routes with 16 hosts each below a domain.
func (w *world) narrowRoutes(t *testing.T, namespace string, order, n int) {
	t.Helper()
	for i := range n {
		var hosts []string
		for j := range maxHostnames {
			hosts = append(hosts, fmt.Sprintf("h%d-%d.%s.example", i, j, namespace))
		}
		w.put(t, hostsRoute(namespace, fmt.Sprintf("narrow-%03d", i), order+i, 1, hosts...))
	}
}

// sharedGateway takes routes of all namespaces.
func sharedGateway() *gwv1.Gateway {
	gw := portsGateway("infra", "gw", "10.98.0.1", 1, 1)
	gw.Spec.Listeners[0].AllowedRoutes = &gwv1.AllowedRoutes{Namespaces: &gwv1.RouteNamespaces{From: new(gwv1.NamespacesFromAll)}}
	return gw
}

// rules counts those of all hosts of the Gateway's table.
func (w *world) rules() (n int) {
	t, ok := w.st.RouteTables.Get(w.st.Snapshot(), model.GatewayTable("infra", "gw", 1000, ""))
	if !ok {
		return 0
	}
	for i := range t.VirtualHosts {
		n += len(t.VirtualHosts[i].Rules)
	}
	return n
}

// TestRulesOfWiderHostsCount: the rules of a wildcard are there once more for each host below it. 512 matches of a wildcard and
// 1,600 hosts, which are 2,112 matches, became 820,000.
func TestRulesOfWiderHostsCount(t *testing.T) {
	const most = maxTableMatches * defaultShare / 100
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName), sharedGateway())
	for i := range 4 {
		w.put(t, hostsRoute("greedy", fmt.Sprint("wide-", i), i, 128, "*.greedy.example"))
	}
	w.narrowRoutes(t, "greedy", 10, 100)
	w.narrowRoutes(t, "modest", 300, 20)
	w.put(t, hostsRoute("modest", "wide", 400, 4, "*.modest.example"))
	w.Sync()
	modest := 20*maxHostnames*(1+4) + 4
	if n := w.rules(); n > most+modest {
		t.Errorf("the table has %d rules; those of a namespace may be %d", n, most)
	}
	for name, want := range map[string]bool{"wide-0": true, "wide-3": true, "narrow-000": true, "narrow-099": false} {
		if got := w.accepted("greedy", name); got != want {
			t.Errorf("route %s of the greedy namespace is accepted: %t, want %t", name, got, want)
		}
	}
	for _, name := range []string{"wide", "narrow-000", "narrow-019"} {
		if !w.accepted("modest", name) {
			t.Errorf("route %s of another namespace is not accepted: %s", name, w.problemOf("HTTPRoute", "modest", name))
		}
	}
}

// TestRefusedHostsCostOthersNothing: the routes that a namespace has no room for are no hosts below another one's wildcard.
func TestRefusedHostsCostOthersNothing(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName), sharedGateway())
	w.put(t, hostsRoute("greedy", "all", 1, 128, "*.greedy.example"), hostsRoute("greedy", "more", 2, 128, "*.greedy.example"))
	w.narrowRoutes(t, "greedy", 10, 400)
	w.put(t, hostsRoute("modest", "fallback", 900, 100))
	w.Sync()
	if w.accepted("greedy", "narrow-399") {
		t.Fatal("all routes of the greedy namespace fit")
	}
	if !w.accepted("modest", "fallback") {
		t.Errorf("another namespace's route is not accepted: %s", w.problemOf("HTTPRoute", "modest", "fallback"))
	}
}
