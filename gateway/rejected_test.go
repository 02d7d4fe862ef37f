package gateway

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// refuse writes that Envoys refused an object at a generation.
func (w *world) refuse(ref model.ObjectRef, generation int64, message string, nodes ...string) {
	txn := w.st.Write(w.st.Rejections)
	for _, n := range nodes {
		w.st.Rejections.Put(txn, &model.Rejection{
			Node: n, Resource: "Thing/" + ref.Name, Message: message,
			Objects: []model.ObjectVersion{{ObjectRef: ref, Generation: generation}},
		})
	}
	txn.Commit()
	w.Sync()
}

// TestRefusalOfAnOlderGeneration: what Envoy refused of an object marks the object as it was then, and no newer one.
func TestRefusalOfAnOlderGeneration(t *testing.T) {
	route := func(w *world, generation int64) {
		r := serviceRoute("ns", "r", "web", 1)
		r.Generation = generation
		w.put(t, simpleService("ns", "web"), r)
	}
	gateway := func(w *world, generation int64) {
		w.put(t, &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "weft"}, Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
			&gwv1.Gateway{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r", Generation: generation},
				Spec:       gwv1.GatewaySpec{GatewayClassName: "weft", Listeners: []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}}},
			})
	}
	policy := func(w *world, generation int64) {
		w.put(t, &weftv1.AuthorizationPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r", Generation: generation},
			Spec:       weftv1.AuthorizationPolicySpec{Action: weftv1.ActionAllow},
		})
	}
	for _, kind := range []struct {
		ref model.ObjectRef
		put func(w *world, generation int64)
	}{
		{httpRouteRef("ns", "r"), route},
		{model.ObjectRef{Group: gwv1.GroupName, Kind: "Gateway", Namespace: "ns", Name: "r"}, gateway},
		{model.ObjectRef{Group: weftv1.Group, Kind: "AuthorizationPolicy", Namespace: "ns", Name: "r"}, policy},
	} {
		t.Run(kind.ref.Kind, func(t *testing.T) {
			w := newWorld(testConfig)
			marked := func() bool {
				s, ok := w.st.Statuses.Get(w.st.Snapshot(), kind.ref.String())
				if !ok {
					t.Fatal("no status")
				}
				return strings.Contains(problem(s), "no such thing")
			}
			for i, step := range []struct {
				object, refused int64
				marked          bool
			}{{2, 1, false}, {2, 2, true}, {3, 2, false}, {3, 3, true}, {3, 0, true}} {
				kind.put(w, step.object)
				w.refuse(kind.ref, step.refused, "no such thing", "")
				if got := marked(); got != step.marked {
					t.Errorf("step %d: marked %t, want %t", i, got, step.marked)
				}
			}
		})
	}
}

// TestRefusalOfOneListener: what Envoy refused of a port, or of a listener, is said of that one alone, and of the Gateway.
func TestRefusalOfOneListener(t *testing.T) {
	ref := model.ObjectRef{Group: gwv1.GroupName, Kind: "Gateway", Namespace: "edge", Name: "gw"}
	listeners := []string{"HTTP 80", "HTTP 8080", "TCP 9000", "UDP 9000", "HTTP 80 a.example"}
	for resource, want := range map[string][]int{
		"Listener/" + model.GatewayTable("edge", "gw", 80, ""):                  {0, 4},
		"RouteConfiguration/" + model.GatewayTable("edge", "gw", 8080, ""):      {1},
		"RouteConfiguration/" + model.GatewayTable("edge", "gw", 80, "http-80"): {0},
		"Listener/" + model.GatewayTable("edge", "gw", 9000, ""):                {2},
		"Listener/" + model.GatewayDatagrams("edge", "gw", 9000):                {3},
		"Listener/" + model.GatewayTable("edge", "gw", 8, ""):                   nil,
		"RouteConfiguration/" + model.GatewayTable("edge", "gw", 80, "") + "|p": {0, 4},
		"Secret/of-all": {0, 1, 2, 3, 4},
	} {
		w := newWorld(testConfig)
		w.put(t, classOf("weft", ControllerName), openGateway("edge", "gw", 100, listeners...))
		txn := w.st.Write(w.st.Rejections)
		w.st.Rejections.Put(txn, &model.Rejection{Resource: resource, Message: "no such thing", Objects: []model.ObjectVersion{{ObjectRef: ref}}})
		txn.Commit()
		w.Sync()
		s, _ := w.st.Statuses.Get(w.st.Snapshot(), ref.String())
		told := func(conditions []model.Condition) bool {
			return slices.ContainsFunc(conditions, func(c model.Condition) bool {
				return c.Type == model.ConditionProgrammed && !c.Status && strings.Contains(c.Message, "no such thing")
			})
		}
		var got []int
		for i, l := range s.Listeners {
			if told(l.Conditions) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, want) || !told(s.Conditions) {
			t.Errorf("%s: told of listeners %v, want %v; of the Gateway: %t", resource, got, want, told(s.Conditions))
		}
	}
}

// TestRefusalsNameTheirNodes: what several nodes refused is told once, with the first of them.
func TestRefusalsNameTheirNodes(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, simpleService("ns", "web"), serviceRoute("ns", "r", "web", 1))
	for i, want := range []string{
		"Envoy of node n0 refused Thing/r: no such thing",
		"Envoy of node n0, n1 refused Thing/r: no such thing",
		"Envoy of node n0, n1, n2 refused Thing/r: no such thing",
		"Envoy of node n0, n1, n2 and others refused Thing/r: no such thing",
		"Envoy of node n0, n1, n2 and others refused Thing/r: no such thing",
	} {
		w.refuse(httpRouteRef("ns", "r"), 0, "no such thing", fmt.Sprintf("n%d", i))
		s, _ := w.st.Statuses.Get(w.st.Snapshot(), httpRouteRef("ns", "r").String())
		if got := s.Parents[0].Conditions[0].Message; got != want {
			t.Errorf("%d nodes: %q, want %q", i+1, got, want)
		}
	}
}

// TestModelHoldsGenerations: what is built of an object can be told from what is built of a newer one.
func TestModelHoldsGenerations(t *testing.T) {
	w := newWorld(testConfig)
	r := serviceRoute("ns", "r", "web", 1)
	r.Generation = 7
	w.put(t, simpleService("ns", "web"), r)
	w.Sync()
	table, ok := w.st.RouteTables.Get(w.st.Snapshot(), model.ServiceTable("ns", "web", 80))
	if !ok || table.VirtualHosts[0].Rules[0].Generation != 7 {
		t.Errorf("the rule of generation 7 is %+v", table)
	}
}

// TestPortsThatANodeDoesNotSend: a Service with more ports in use than a node sends to Envoy is over budget, and not invalid.
func TestPortsThatANodeDoesNotSend(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, simpleService("ns", "web"))
	txn := w.st.Write(w.st.Rejections)
	for _, node := range []string{"n1", "n2"} {
		w.st.Rejections.Put(txn, &model.Rejection{
			Node: node, Resource: model.PortsPrefix + "ns/web", Message: "too many",
			Objects: []model.ObjectVersion{{ObjectRef: model.ObjectRef{Kind: "Service", Namespace: "ns", Name: "web"}}},
		})
	}
	txn.Commit()
	w.Sync()
	if p := w.problemOf("Service", "ns", "web"); !strings.Contains(p, "OverBudget") || !strings.Contains(p, "n1, n2: too many") || strings.Contains(p, "Invalid") {
		t.Errorf("the Service's problem is %q", p)
	}
}
