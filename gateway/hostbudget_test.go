package gateway

import (
	"fmt"
	"slices"
	"strings"
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

// TestHostsAndWildcardsOfOthersCostNothing: tenants share a listener. One edits its oldest routes to 128 matches of all hostnames,
// another adds hosts below a third one's wildcard. No route that was accepted is refused for it.
func TestHostsAndWildcardsOfOthersCostNothing(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName), sharedGateway())
	for i := range 10 {
		w.put(t, hostsRoute("greedy", fmt.Sprint("old-", i), i, 1, fmt.Sprintf("h%d.greedy.example", i)))
	}
	w.put(t, hostsRoute("fallbacks", "wide", 20, 100))
	w.narrowRoutes(t, "modest", 30, 4)
	w.Sync()
	served := func(when string) {
		t.Helper()
		for i := range 4 {
			if name := fmt.Sprintf("narrow-%03d", i); !w.accepted("modest", name) {
				t.Errorf("%s, route %s is not accepted: %s", when, name, w.problemOf("HTTPRoute", "modest", name))
			}
		}
		if !w.accepted("fallbacks", "wide") {
			t.Errorf("%s, the wildcard's route is not accepted: %s", when, w.problemOf("HTTPRoute", "fallbacks", "wide"))
		}
		if got := w.rulesOf("h0-0.modest.example", "fallbacks"); got != 100 {
			t.Errorf("%s, a host has %d rules of the wildcard, want 100", when, got)
		}
	}
	served("at first")
	for i := range 10 {
		w.put(t, hostsRoute("greedy", fmt.Sprint("old-", i), i, 128))
	}
	w.narrowRoutes(t, "crowd", 500, 60)
	w.Sync()
	served("with many wildcards and hosts of another namespace")
	const most = maxTableMatches * defaultShare / 100
	if n, bound := w.rules(), most+sharedCopies.matches+100+64+960; n > bound {
		t.Errorf("the table has %d rules, and may have %d", n, bound)
	}
	// 960 hosts and 100 matches, and 64 hosts and 1,280 matches, do not fit. Who writes the routes can see it.
	if got := w.rulesOf("h0-0.crowd.example", "fallbacks") + w.rulesOf("h0-0.modest.example", "greedy"); got != 0 {
		t.Errorf("hosts have %d rules that there is no room for", got)
	}
	for _, want := range []struct{ namespace, name, note string }{
		{"greedy", "old-0", "requests for narrower hostnames of namespaces crowd, modest do not go on to these rules"},
		{"fallbacks", "wide", "requests for narrower hostnames of namespaces crowd do not go on to these rules"},
		{"modest", "narrow-000", "requests that no rule of the namespace matches do not go on to wildcards of namespaces greedy:"},
	} {
		if got := w.acceptedMessage(want.namespace, want.name); !strings.Contains(got, want.note) {
			t.Errorf("route %s/%s: %q, want %q", want.namespace, want.name, got, want.note)
		}
	}
	// What was refused comes back when there is room.
	for i := range 60 {
		w.remove(t, "HTTPRoute", fmt.Sprintf("crowd/narrow-%03d", i))
	}
	for i := range 10 {
		w.remove(t, "HTTPRoute", fmt.Sprint("greedy/old-", i))
	}
	w.put(t, hostsRoute("greedy", "wide", 1, 16))
	w.Sync()
	served("with few of another namespace")
	if got := w.rulesOf("h0-0.modest.example", "greedy"); got != 16 {
		t.Errorf("a host has %d rules of another wildcard, want 16", got)
	}
	if got := w.acceptedMessage("greedy", "wide"); got != "" {
		t.Errorf("the note stays: %q", got)
	}
}

// TestDemandOfANamespaceIsItsOwn: with five namespaces that ask for all that they can get, no one gets less for what others ask.
func TestDemandOfANamespaceIsItsOwn(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName), sharedGateway())
	for i := range 10 {
		w.put(t, hostsRoute("greedy", fmt.Sprint("wide-", i), i, 128))
	}
	for i := range 5 {
		w.narrowRoutes(t, fmt.Sprint("tenant-", i), 50, 30)
	}
	w.Sync()
	for i := range 5 {
		ns := fmt.Sprint("tenant-", i)
		if !w.accepted(ns, "narrow-029") {
			t.Errorf("%s: %s", ns, w.problemOf("HTTPRoute", ns, "narrow-029"))
		}
	}
}

// rulesOf counts the rules of a host that come from a namespace.
func (w *world) rulesOf(host, namespace string) (n int) {
	t, _ := w.st.RouteTables.Get(w.st.Snapshot(), model.GatewayTable("infra", "gw", 1000, ""))
	for i := range t.VirtualHosts {
		if !slices.Contains(t.VirtualHosts[i].Hosts, host) {
			continue
		}
		for _, r := range t.VirtualHosts[i].Rules {
			if r.Route.Namespace == namespace {
				n++
			}
		}
	}
	return n
}

func (w *world) acceptedMessage(namespace, name string) string {
	s, ok := w.st.Statuses.Get(w.st.Snapshot(), httpRouteRef(namespace, name).String())
	if !ok || len(s.Parents) != 1 {
		return "no status"
	}
	return s.Parents[0].Conditions[0].Message
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
