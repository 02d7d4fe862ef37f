package gateway

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func simpleService(namespace, name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

func TestRunWaitsForTheObjectsAndFollowsThem(t *testing.T) {
	db := state.NewDB()
	objs, st := kube.NewObjects(db), state.New(db)
	loaded := make(chan struct{})
	cfg := testConfig
	cfg.Loaded = loaded
	w := &world{New(objs, st, cfg, slog.New(slog.DiscardHandler)), objs, st}
	feed := st.Feed()
	defer feed.Close()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()

	w.put(t, simpleService("ns", "first"))
	select {
	case <-st.Synced():
		t.Fatal("synced before the objects were loaded")
	default:
	}
	if _, ok := st.Services.Get(st.Snapshot(), "ns/first"); ok {
		t.Fatal("translated before the objects were loaded")
	}
	close(loaded)
	wait(t, "the first pass", st.Synced())
	if _, ok := st.Services.Get(st.Snapshot(), "ns/first"); !ok {
		t.Fatal("synced without the object that was there")
	}
	w.put(t, simpleService("ns", "second"))
	for {
		if _, ok := st.Services.Get(st.Snapshot(), "ns/second"); ok {
			break
		}
		wait(t, "the second service", feed.Ready())
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// wait fails the test when something that must happen does not; the time is a bound, not a mark.
func wait(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s did not come", what)
	}
}

func TestAddressOfAPoolDoesNotMove(t *testing.T) {
	w := newWorld(testConfig)
	gw := func(name string, age int64) *gwv1.Gateway {
		return &gwv1.Gateway{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(age, 0))},
			Spec: gwv1.GatewaySpec{GatewayClassName: "weft", Listeners: []gwv1.Listener{{
				Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType,
			}}},
		}
	}
	pool := func(addrs ...string) *weftv1.AddressPool {
		return &weftv1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: weftv1.AddressPoolSpec{Addresses: addrs}}
	}
	remove := func(name string) {
		txn := w.objs.Write()
		if err := w.objs.Delete(txn, schema.GroupKind{Group: gwv1.GroupName, Kind: "Gateway"}, "ns/"+name); err != nil {
			t.Fatal(err)
		}
		txn.Commit()
	}
	w.put(t, &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "weft"}, Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
		pool("192.0.2.0/30"), gw("b", 10))
	for _, step := range []struct {
		what string
		do   func()
		want map[string]string
	}{
		{"one Gateway", func() {}, map[string]string{"b": "192.0.2.0"}},
		{"an older one comes later", func() { w.put(t, gw("a", 1)) }, map[string]string{"a": "192.0.2.1", "b": "192.0.2.0"}},
		{"a third", func() { w.put(t, gw("c", 20)) }, map[string]string{"a": "192.0.2.1", "b": "192.0.2.0", "c": "192.0.2.2"}},
		{"the first goes", func() { remove("b") }, map[string]string{"a": "192.0.2.1", "b": "", "c": "192.0.2.2"}},
		{"its address is given again", func() { w.put(t, gw("d", 30)) }, map[string]string{"a": "192.0.2.1", "c": "192.0.2.2", "d": "192.0.2.0"}},
		{"the pool loses one", func() { w.put(t, pool("192.0.2.0/31", "192.0.2.8/32")) }, map[string]string{"a": "192.0.2.1", "c": "192.0.2.8", "d": "192.0.2.0"}},
		{"an earlier run's address is kept", func() {
			g := gw("e", 2)
			g.Status.Addresses = []gwv1.GatewayStatusAddress{{Value: "192.0.2.19"}}
			w.put(t, g, pool("192.0.2.0/31", "192.0.2.8/32", "192.0.2.16/30"))
		}, map[string]string{"a": "192.0.2.1", "c": "192.0.2.8", "d": "192.0.2.0", "e": "192.0.2.19"}},
	} {
		step.do()
		w.Sync()
		for name, want := range step.want {
			got := ""
			if g, ok := w.st.Gateways.Get(w.st.Snapshot(), "ns/"+name); ok {
				got = g.Addresses[0].String()
			}
			if got != want {
				t.Errorf("%s: Gateway %s has %q, want %q", step.what, name, got, want)
			}
		}
	}
}

// TestAnotherControllerGoesOnWithTheAddressesGiven: it translates beside the one that writes, may have thought of other
// addresses, and takes over.
func TestAnotherControllerGoesOnWithTheAddressesGiven(t *testing.T) {
	w := newWorld(configOf("controller-"))
	gw := func(name string, age int64, given ...string) *gwv1.Gateway {
		g := &gwv1.Gateway{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(age, 0))},
			Spec: gwv1.GatewaySpec{GatewayClassName: "weft", Listeners: []gwv1.Listener{{
				Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType,
			}}},
		}
		for _, a := range given {
			g.Status.Addresses = append(g.Status.Addresses, gwv1.GatewayStatusAddress{Value: a})
		}
		return g
	}
	w.put(t, &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "weft"}, Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
		&weftv1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: weftv1.AddressPoolSpec{Addresses: []string{"192.0.2.0/30"}}},
		gw("a", 1), gw("b", 2))
	w.Sync() // it would give a .0 and b .1
	w.put(t, gw("a", 1, "192.0.2.1"), gw("b", 2, "192.0.2.0"), gw("c", 0), gw("d", 3, "198.51.100.1", "192.0.2.0"))
	w.Sync()
	for name, want := range map[string]string{"a": "192.0.2.1", "b": "192.0.2.0", "c": "192.0.2.2", "d": "192.0.2.3"} {
		g, ok := w.st.Gateways.Get(w.st.Snapshot(), "ns/"+name)
		if !ok || len(g.Addresses) != 1 || g.Addresses[0].String() != want {
			t.Errorf("Gateway %s: %v, want %s", name, g, want)
		}
	}
}

func TestWhatEnvoyRefusedIsToldOfItsObject(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, simpleService("ns", "web"), serviceRoute("ns", "bad", "web", 1), serviceRoute("ns", "good", "web", 1))
	w.Sync()
	before := w.model()
	txn := w.st.Write(w.st.Rejections)
	w.st.Rejections.Put(txn, &model.Rejection{
		Resource: "RouteConfiguration/service/ns/web/80", Objects: []model.ObjectVersion{{ObjectRef: httpRouteRef("ns", "bad")}}, Message: "no such thing",
	})
	txn.Commit()
	w.Sync()
	accepted := func(name string) model.Condition {
		s, ok := w.st.Statuses.Get(w.st.Snapshot(), httpRouteRef("ns", name).String())
		if !ok {
			t.Fatalf("route %s has no status", name)
		}
		return s.Parents[0].Conditions[0]
	}
	if c := accepted("bad"); c.Status || !strings.Contains(c.Message, "no such thing") {
		t.Errorf("the refused route: %+v", c)
	}
	if c := accepted("good"); !c.Status {
		t.Errorf("the other route: %+v", c)
	}
	if len(w.model().RouteTables) != len(before.RouteTables) {
		t.Error("a refusal changed the model")
	}
	txn = w.st.Write(w.st.Rejections)
	w.st.Rejections.Delete(txn, "RouteConfiguration/service/ns/web/80")
	txn.Commit()
	w.Sync()
	if c := accepted("bad"); !c.Status {
		t.Errorf("after the refusal was taken back: %+v", c)
	}
}

// TestAChangeTouchesOnlyItsReaders counts the units that run, so that no scan of a whole table creeps in.
func TestAChangeTouchesOnlyItsReaders(t *testing.T) {
	w := newWorld(testConfig)
	for _, n := range []string{"a", "b", "c"} {
		s := simpleService("ns", n)
		s.Spec.ClusterIP = ""
		w.put(t, s, serviceRoute("ns", n, n, 1))
	}
	w.Sync()
	feed := w.st.Feed()
	defer feed.Close()
	w.put(t, serviceRoute("ns", "b", "b", 2))
	w.Sync()
	keys, _ := feed.Take()
	for k := range keys {
		if k.Index == "" && !strings.Contains(k.Value, "b") {
			t.Errorf("a change of route b changed %v", k)
		}
	}
	txn := w.objs.Write()
	w.objs.Namespaces.Put(txn, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}})
	txn.Commit()
	keys, _ = w.feed.Take()
	if dirty := w.deps.Dirty(keys); len(dirty) != 0 {
		t.Errorf("a namespace that nothing uses makes %d units run", len(dirty))
	}
}

func TestLimits(t *testing.T) {
	long := strings.Repeat("a", 1<<20)
	rule := func(m gwv1.HTTPRouteMatch) gwv1.HTTPRouteRule {
		return gwv1.HTTPRouteRule{Matches: []gwv1.HTTPRouteMatch{m}}
	}
	for what, change := range map[string]func(*gwv1.HTTPRoute){
		"a path of 1 MiB": func(r *gwv1.HTTPRoute) {
			r.Spec.Rules = []gwv1.HTTPRouteRule{rule(gwv1.HTTPRouteMatch{Path: &gwv1.HTTPPathMatch{Value: new("/" + long)}})}
		},
		"a regular expression of 1 MiB": func(r *gwv1.HTTPRoute) {
			r.Spec.Rules = []gwv1.HTTPRouteRule{rule(gwv1.HTTPRouteMatch{Path: &gwv1.HTTPPathMatch{
				Type: new(gwv1.PathMatchRegularExpression), Value: &long,
			}})}
		},
		"a header of 1 MiB": func(r *gwv1.HTTPRoute) {
			r.Spec.Rules = []gwv1.HTTPRouteRule{rule(gwv1.HTTPRouteMatch{Headers: []gwv1.HTTPHeaderMatch{{Name: "a", Value: long}}})}
		},
		"10,000 rules":   func(r *gwv1.HTTPRoute) { r.Spec.Rules = make([]gwv1.HTTPRouteRule, 10_000) },
		"10,000 matches": func(r *gwv1.HTTPRoute) { r.Spec.Rules[0].Matches = make([]gwv1.HTTPRouteMatch, 10_000) },
		"10,000 backends": func(r *gwv1.HTTPRoute) {
			r.Spec.Rules[0].BackendRefs = make([]gwv1.HTTPBackendRef, 10_000)
		},
	} {
		w := newWorld(testConfig)
		bad := serviceRoute("ns", "bad", "web", 1)
		change(bad)
		w.put(t, simpleService("ns", "web"), bad, serviceRoute("ns", "good", "web", 1))
		w.Sync()
		s, ok := w.st.Statuses.Get(w.st.Snapshot(), httpRouteRef("ns", "bad").String())
		if !ok {
			t.Errorf("%s: no status", what)
			continue
		}
		if c := s.Parents[0].Conditions[0]; c.Status || c.Reason != "UnsupportedValue" || len(c.Message) > 1024 {
			t.Errorf("%s: %v %s, message of %d bytes", what, c.Status, c.Reason, len(c.Message))
		}
		table, ok := w.st.RouteTables.Get(w.st.Snapshot(), "service/ns/web/80")
		if !ok || len(table.VirtualHosts[0].Rules) != 1 || table.VirtualHosts[0].Rules[0].Route.Name != "good" {
			t.Errorf("%s: the good route is not served alone: %+v", what, table)
		}
	}
}
