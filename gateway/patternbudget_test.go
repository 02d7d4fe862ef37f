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
