package gateway

import (
	"fmt"
	"strings"
	"testing"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// tcpRoute is a TCPRoute of a Service to itself. Routes of a higher order are younger.
func tcpRoute(namespace, name, service string, order int, port int32) *gwv1.TCPRoute {
	return &gwv1.TCPRoute{
		ObjectMeta: created(namespace, name, 1000-order),
		Spec: gwv1.TCPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{
				Group: new(gwv1.Group("")), Kind: new(gwv1.Kind("Service")), Name: gwv1.ObjectName(service),
			}}},
			Rules: []gwv1.TCPRouteRule{{BackendRefs: []gwv1.BackendRef{{BackendObjectReference: gwv1.BackendObjectReference{
				Name: gwv1.ObjectName(service), Port: new(port),
			}}}}},
		},
	}
}

// TestDivisionsHaveABudget: the slots of TCPRoutes count for their namespace. Those of the older routes are served, and those of
// other namespaces.
func TestDivisionsHaveABudget(t *testing.T) {
	w := newWorld(testConfig)
	const routes = 200
	for i := range routes {
		name := fmt.Sprint("s", i)
		portsService(t, w, "greedy", name, i, 1, 1)
		w.put(t, tcpRoute("greedy", name, name, i, 1))
	}
	portsService(t, w, "modest", "s", 500, 1, 1)
	w.put(t, tcpRoute("modest", "s", "s", 500, 1))
	w.Sync()
	served := 0
	for i := range routes {
		s, _ := w.st.Statuses.Get(w.st.Snapshot(), streamRouteRef("TCPRoute", "greedy", fmt.Sprint("s", i)).String())
		accepted := s.Parents[0].Conditions[0]
		if _, ok := w.st.Divisions.Get(w.st.Snapshot(), model.PortKey("greedy", fmt.Sprint("s", i), 1, model.TCP)); ok != accepted.Status {
			t.Fatalf("route %d: accepted %t, in the model %t", i, accepted.Status, ok)
		}
		if !accepted.Status {
			if !strings.Contains(accepted.Message, "older Services of the namespace leave") {
				t.Fatalf("route %d: %s", i, accepted.Message)
			}
			continue
		}
		if served != i {
			t.Fatalf("route %d is served, and %d of the older ones", i, served)
		}
		served++
	}
	if most := model.MaxSlots * defaultShare / 100 / (2 * model.MaxDivision); served == 0 || served > most {
		t.Errorf("%d routes are served, of at most %d", served, most)
	}
	if _, ok := w.st.Divisions.Get(w.st.Snapshot(), "modest/s/1"); !ok {
		t.Error("the route of another namespace is not served")
	}
}

// TestDivisionFollowsItsBackends: a change of the endpoints of a backend is one of the division.
func TestDivisionFollowsItsBackends(t *testing.T) {
	w := newWorld(testConfig)
	portsService(t, w, "ns", "s", 0, 1, 3)
	w.put(t, tcpRoute("ns", "r", "s", 0, 1))
	w.Sync()
	endpoints := func() int {
		d, ok := w.st.Divisions.Get(w.st.Snapshot(), "ns/s/1")
		if !ok || len(d.Shares) != 1 {
			t.Fatalf("the division is %+v", d)
		}
		return len(d.Shares[0].Endpoints)
	}
	if n := endpoints(); n != 3 {
		t.Errorf("%d endpoints, want 3", n)
	}
	portsService(t, w, "ns", "s", 0, 1, 5)
	w.Sync()
	if n := endpoints(); n != 5 {
		t.Errorf("%d endpoints, want 5", n)
	}
}

// TestDivisionsForCallersHaveABudget: what a route of another namespace takes of the kernel counts for its own namespace, also the
// addresses of the Service.
func TestDivisionsForCallersHaveABudget(t *testing.T) {
	w := newWorld(testConfig)
	portsService(t, w, "shop", "s", 1, 1, 1)
	r := tcpRoute("web", "own", "s", 2, 1)
	r.Spec.ParentRefs[0].Namespace = new(gwv1.Namespace("shop"))
	w.put(t, r, tcpRoute("shop", "own", "s", 3, 1))
	w.Sync()
	web, _ := w.demands.Get(w.st.Snapshot(), streamRouteRef("TCPRoute", "web", "own").String())
	shop, _ := w.demands.Get(w.st.Snapshot(), streamRouteRef("TCPRoute", "shop", "own").String())
	if web == nil || web.namespace != "web" || web.frontends != 1 || web.slots != 2*model.MaxDivision {
		t.Errorf("%+v", web)
	}
	if shop == nil || shop.namespace != "shop" || shop.frontends != 0 {
		t.Errorf("%+v", shop)
	}
	for _, caller := range []string{"", "web"} {
		key := model.DivisionKey(model.PortKey("shop", "s", 1, model.TCP), caller)
		if d, ok := w.st.Divisions.Get(w.st.Snapshot(), key); !ok || d.CallerNamespace != caller {
			t.Errorf("%s: %+v", key, d)
		}
	}
}
