package gateway

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// openGateway is a Gateway for the ListenerSets of all namespaces. Listeners are given as for entry.
func openGateway(namespace, name string, age int, listeners ...string) *gwv1.Gateway {
	gw := &gwv1.Gateway{ObjectMeta: created(namespace, name, age)}
	gw.Spec.GatewayClassName = "weft"
	gw.Spec.AllowedListeners = &gwv1.AllowedListeners{Namespaces: &gwv1.ListenerNamespaces{From: new(gwv1.NamespacesFromAll)}}
	for _, l := range listeners {
		gw.Spec.Listeners = append(gw.Spec.Listeners, gwv1.Listener(entry(l)))
	}
	return gw
}

// listenerSet is a ListenerSet for the Gateway edge/gw.
func listenerSet(namespace, name string, age int, listeners ...string) *gwv1.ListenerSet {
	set := &gwv1.ListenerSet{ObjectMeta: created(namespace, name, age)}
	set.Spec.ParentRef = gwv1.ParentGatewayReference{Namespace: new(gwv1.Namespace("edge")), Name: "gw"}
	for _, l := range listeners {
		set.Spec.Listeners = append(set.Spec.Listeners, entry(l))
	}
	return set
}

// entry reads "PROTOCOL PORT [HOSTNAME]", which is the listener's name too, in small letters and with dashes. One of HTTPS has
// the certificate "cert", and one of TLS passes it through.
func entry(text string) gwv1.ListenerEntry {
	f := append(strings.Fields(text), "")
	e := gwv1.ListenerEntry{Name: gwv1.SectionName(entryName(text)), Protocol: gwv1.ProtocolType(f[0])}
	if _, err := fmt.Sscan(f[1], &e.Port); err != nil {
		panic(err)
	}
	if f[2] != "" {
		e.Hostname = new(gwv1.Hostname(f[2]))
	}
	switch e.Protocol {
	case gwv1.HTTPSProtocolType:
		e.TLS = &gwv1.ListenerTLSConfig{CertificateRefs: []gwv1.SecretObjectReference{{Name: "cert"}}}
	case gwv1.TLSProtocolType:
		e.TLS = &gwv1.ListenerTLSConfig{Mode: new(gwv1.TLSModePassthrough)}
	}
	return e
}

func entryName(text string) string {
	return strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(text, " ", "-"), "*", "any"))
}

func certSecret(namespace string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: created(namespace, "cert", 1), Data: map[string][]byte{}}
	s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey] = keyPair()
	return s
}

// listenerReasons returns the reasons of the listeners of an object that are not accepted, "" for those that are.
func (w *world) listenerReasons(kind, namespace, name string) map[string]string {
	ref := model.ObjectRef{Group: gwv1.GroupName, Kind: kind, Namespace: namespace, Name: name}
	s, ok := w.st.Statuses.Get(w.st.Snapshot(), ref.String())
	if !ok {
		return nil
	}
	out := map[string]string{}
	for _, l := range s.Listeners {
		out[l.Name] = ""
		for _, c := range l.Conditions {
			if c.Type == model.ConditionAccepted && !c.Status {
				out[l.Name] = c.Reason
			}
		}
	}
	return out
}

func (w *world) remove(t *testing.T, kind, key string) {
	t.Helper()
	txn := w.objs.Write()
	if err := w.objs.Delete(txn, schema.GroupKind{Group: gwv1.GroupName, Kind: kind}, key); err != nil {
		t.Fatal(err)
	}
	txn.Commit()
	w.Sync()
}

// TestListenerSetsTakeNothing: whatever a tenant claims, what the Gateway and older ListenerSets have goes on as it was.
func TestListenerSetsTakeNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		claim []string
		want  string // the reason for which each of claim is not accepted, "" if it is
	}{
		{"the Gateway's port and hostname", []string{"HTTP 80 own.example"}, "HostnameConflict"},
		{"the Gateway's hostname with a certificate of its own", []string{"HTTPS 443 *.own.example"}, "HostnameConflict"},
		{"TLS for the Gateway's hostname", []string{"TLS 443 *.own.example"}, "HostnameConflict"},
		{"another protocol on the Gateway's port", []string{"TCP 80"}, "ProtocolConflict"},
		{"TLS on the port of requests in the clear", []string{"HTTPS 80 new.example"}, "ProtocolConflict"},
		{"HTTP on the port of TLS", []string{"HTTP 443 new.example"}, "ProtocolConflict"},
		{"a port of which the Gateway's listeners are in conflict", []string{"HTTP 81 new.example"}, "ProtocolConflict"},
		{"a hostname of which the Gateway's listener is refused", []string{"HTTPS 444 own.example"}, "HostnameConflict"},
		{"an older tenant's hostname", []string{"HTTP 80 old.example"}, "HostnameConflict"},
		{"an older tenant's port", []string{"TCP 9000"}, "HostnameConflict"},
		{"another protocol on an older tenant's port", []string{"HTTP 9000 new.example"}, "ProtocolConflict"},
		{"a protocol that is unknown", []string{"QUIC 9000"}, "UnsupportedProtocol"},
		{"a port that is none", []string{"HTTP 0 new.example"}, "UnsupportedValue"},
		{"a name of its own", []string{"HTTP 80 new.example"}, ""},
		{"a port of its own", []string{"TCP 9001"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(testConfig)
			gw := openGateway("edge", "gw", 100, "HTTP 80 own.example", "HTTPS 443 *.own.example", "HTTP 81", "TCP 81", "HTTPS 444 own.example")
			gw.Spec.Listeners[4].TLS.Options = map[gwv1.AnnotationKey]gwv1.AnnotationValue{"example.com/x": "y"}
			w.put(t, classOf("weft", ControllerName), certSecret("edge"), certSecret("tenant"), gw,
				listenerSet("tenant", "old", 50, "HTTP 80 old.example", "HTTPS 443 old.example", "TCP 9000"))
			route := serviceRoute("edge", "r", "web", 1)
			route.Spec.ParentRefs = []gwv1.ParentReference{{Name: "gw"}}
			w.put(t, simpleService("edge", "web"), route)
			w.Sync()
			before := text(t, w.model().RouteTables, w.model().Gateways)
			own, old := w.listenerReasons("Gateway", "edge", "gw"), w.listenerReasons("ListenerSet", "tenant", "old")
			w.put(t, listenerSet("attacker", "new", 1, c.claim...))
			w.Sync()
			for _, claim := range c.claim {
				if got, ok := w.listenerReasons("ListenerSet", "attacker", "new")[entryName(claim)]; got != c.want || !ok {
					t.Errorf("%s: reason %q, want %q", claim, got, c.want)
				}
			}
			if d := cmp.Diff(own, w.listenerReasons("Gateway", "edge", "gw")); d != "" {
				t.Errorf("the Gateway's listeners: %s", d)
			}
			if d := cmp.Diff(old, w.listenerReasons("ListenerSet", "tenant", "old")); d != "" {
				t.Errorf("the older tenant's listeners: %s", d)
			}
			if after := text(t, w.model().RouteTables, w.model().Gateways); c.want != "" && after != before {
				t.Errorf("what is served changed: %s", cmp.Diff(before, after))
			}
		})
	}
}

// TestListenerOfADeletedListenerSet goes to the next one, with its routes.
func TestListenerOfADeletedListenerSet(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName), openGateway("edge", "gw", 100, "HTTP 80 own.example"), simpleService("a", "web"), simpleService("b", "web"))
	for ns, age := range map[string]int{"a": 2, "b": 1} {
		route := serviceRoute(ns, "r", "web", 1)
		route.Spec.ParentRefs = []gwv1.ParentReference{{Kind: new(gwv1.Kind("ListenerSet")), Name: "set"}}
		w.put(t, listenerSet(ns, "set", age, "HTTP 80 shared.example"), route)
	}
	w.Sync()
	if !w.accepted("a", "r") || w.accepted("b", "r") {
		t.Error("the route of the older ListenerSet is not the one that is accepted")
	}
	w.remove(t, "ListenerSet", "a/set")
	if w.accepted("a", "r") || !w.accepted("b", "r") {
		t.Error("the route of the ListenerSet that is left is not the one that is accepted")
	}
	if got := w.listenerReasons("ListenerSet", "b", "set"); got["http-80-shared.example"] != "" {
		t.Errorf("the listener that is left: %v", got)
	}
	// Of two of one age the name decides.
	w.put(t, listenerSet("a", "set", 1, "HTTP 80 shared.example"))
	w.Sync()
	if w.accepted("b", "r") {
		t.Error("of two ListenerSets of one age the first by name is not the one that counts")
	}
	w.remove(t, "Gateway", "edge/gw")
	ref := model.ObjectRef{Group: gwv1.GroupName, Kind: "ListenerSet", Namespace: "a", Name: "set"}
	if s, ok := w.st.Statuses.Get(w.st.Snapshot(), ref.String()); !ok || s.Conditions[0].Reason != string(gwv1.ListenerSetReasonParentNotAccepted) {
		t.Errorf("without the Gateway: %+v", s)
	}
}

// TestThousandListenerSets: a tenant has its share of a Gateway, others have room beside it, and what the Gateway has itself
// does not depend on them.
func TestThousandListenerSets(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName), openGateway("edge", "gw", 1, "HTTP 80 own.example"))
	for i := range 1000 {
		w.put(t, listenerSet("greedy", fmt.Sprint("s", i), 5000-i, fmt.Sprintf("HTTP 80 h%d.example", i), fmt.Sprintf("HTTP %d", 10_000+i)))
	}
	w.put(t, listenerSet("modest", "set", 2, "HTTP 80 modest.example", "TCP 9000"))
	for i := range 1000 {
		w.put(t, listenerSet("edge", fmt.Sprint("s", i), 1, fmt.Sprintf("HTTP 80 own-%d.example", i)))
	}
	w.Sync()
	count := func(namespace string) map[string]int {
		n := map[string]int{}
		for i := range 1000 {
			for _, reason := range w.listenerReasons("ListenerSet", namespace, fmt.Sprint("s", i)) {
				n[reason]++
			}
		}
		return n
	}
	// Half of the 256 listeners that are looked at are ports, of which 16 are opened.
	if d := cmp.Diff(map[string]int{"": 128 + 16, "PortUnavailable": 128 - 16, "TooManyListeners": 2000 - 256}, count("greedy")); d != "" {
		t.Errorf("of a tenant with 1,000 ListenerSets: %s", d)
	}
	if got := w.listenerReasons("ListenerSet", "modest", "set"); !slices.Equal(slices.Collect(maps.Values(got)), []string{"", ""}) {
		t.Errorf("of a tenant with one ListenerSet: %v", got)
	}
	left := maxMergedListeners - 1 - 128 - 16 - 2
	if d := cmp.Diff(map[string]int{"": left, "TooManyListeners": 1000 - left}, count("edge")); d != "" {
		t.Errorf("of the Gateway's own namespace: %s", d)
	}
	gw, _ := w.st.Gateways.Get(w.st.Snapshot(), "edge/gw")
	if len(gw.Ports) != 1+16+1 || gw.Ports[0].Only {
		t.Errorf("%d ports", len(gw.Ports))
	}
	// A certificate for each of many names does not take the square of their number.
	w = newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName), openGateway("edge", "gw", 1, "HTTPS 443 own.example"), certSecret("edge"))
	for i := range 1000 {
		w.put(t, listenerSet("edge", fmt.Sprint("s", i), 1, fmt.Sprintf("HTTPS 443 h%d.example", i)))
	}
	w.Sync()
	hosts := 0
	for _, table := range w.model().RouteTables {
		for _, vh := range table.VirtualHosts {
			hosts += len(vh.Hosts)
		}
	}
	if hosts != 2*1001 {
		t.Errorf("1001 HTTPS listeners have %d hosts in their tables, want two each", hosts)
	}
}

// TestPortsOfListenerSetsOfSeveralGateways: a new ListenerSet takes no port of an address from another Gateway, nor a new
// Gateway from a ListenerSet.
func TestPortsOfListenerSetsOfSeveralGateways(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName), openGateway("edge", "gw", 100, "HTTP 80"), openGateway("edge", "second", 50, "HTTP 81"))
	w.put(t, listenerSet("tenant", "old", 40, "HTTP 82"), listenerSet("tenant", "new", 1, "HTTP 81 new.example"), openGateway("edge", "third", 30, "HTTP 82", "HTTP 83"))
	w.Sync()
	for _, c := range []struct {
		kind, namespace, name string
		want                  map[string]string
	}{
		{"Gateway", "edge", "gw", map[string]string{"http-80": ""}},
		{"Gateway", "edge", "second", map[string]string{"http-81": ""}},
		{"Gateway", "edge", "third", map[string]string{"http-82": "PortUnavailable", "http-83": ""}},
		{"ListenerSet", "tenant", "old", map[string]string{"http-82": ""}},
		{"ListenerSet", "tenant", "new", map[string]string{"http-81-new.example": "PortUnavailable"}},
	} {
		if d := cmp.Diff(c.want, w.listenerReasons(c.kind, c.namespace, c.name)); d != "" {
			t.Errorf("%s %s/%s: %s", c.kind, c.namespace, c.name, d)
		}
	}
}

// TestRefusalOfAListenerSet: what Envoy refuses of a ListenerSet is said of its listeners, and not of the Gateway.
func TestRefusalOfAListenerSet(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName), openGateway("edge", "gw", 100, "HTTP 80 own.example"), listenerSet("tenant", "set", 1, "HTTP 80 a.example"))
	set := model.ObjectRef{Group: gwv1.GroupName, Kind: "ListenerSet", Namespace: "tenant", Name: "set"}
	w.refuse(set, 0, "no such thing", "n1")
	s, _ := w.st.Statuses.Get(w.st.Snapshot(), set.String())
	const want = "Envoy of node n1 refused Thing/set: no such thing"
	for _, conditions := range [][]model.Condition{s.Conditions, s.Listeners[0].Conditions} {
		i := slices.IndexFunc(conditions, func(c model.Condition) bool { return c.Type == model.ConditionProgrammed })
		if c := conditions[i]; c.Status || c.Message != want {
			t.Errorf("%+v, want %q", c, want)
		}
	}
	gw := model.ObjectRef{Group: gwv1.GroupName, Kind: "Gateway", Namespace: "edge", Name: "gw"}
	if s, _ := w.st.Statuses.Get(w.st.Snapshot(), gw.String()); problem(s) != "" {
		t.Errorf("the Gateway: %s", problem(s))
	}
}

// TestSecretsOfListenerSets: a node that serves Gateways is sent what accepted listeners may use.
func TestSecretsOfListenerSets(t *testing.T) {
	w := newWorld(testConfig)
	gw := openGateway("edge", "gw", 100, "HTTP 80")
	w.put(t, classOf("weft", ControllerName), gw)
	set := listenerSet("tenant", "set", 2, "HTTPS 443 a.example", "HTTPS 443 b.example")
	set.Spec.Listeners[1].TLS.CertificateRefs = []gwv1.SecretObjectReference{{Namespace: new(gwv1.Namespace("vault")), Name: "cert"}}
	grant := func(kind gwv1.Kind, namespace gwv1.Namespace) *gwv1.ReferenceGrant {
		return &gwv1.ReferenceGrant{ObjectMeta: created("vault", "g", 1), Spec: gwv1.ReferenceGrantSpec{
			From: []gwv1.ReferenceGrantFrom{{Group: gwv1.GroupName, Kind: kind, Namespace: namespace}}, To: []gwv1.ReferenceGrantTo{{Kind: "Secret"}},
		}}
	}
	closed := gw.DeepCopy()
	closed.Spec.AllowedListeners = nil
	for _, step := range []struct {
		what   string
		put    runtime.Object
		want   []string
		refers bool
	}{
		{"no ListenerSet", gw, nil, false},
		{"without a ReferenceGrant", set, []string{"tenant/cert"}, true},
		{"one for Gateways", grant("Gateway", "edge"), []string{"tenant/cert"}, true},
		{"one for ListenerSets", grant("ListenerSet", "tenant"), []string{"tenant/cert", "vault/cert"}, true},
		{"a listener that conflicts", listenerSet("other", "set", 1, "HTTPS 443 a.example"), []string{"tenant/cert", "vault/cert"}, true},
		{"the Gateway allows none", closed, nil, false},
	} {
		w.put(t, step.put)
		w.Sync()
		s := w.st.Snapshot()
		if got, left := w.UsedSecrets(s); !slices.Equal(got, step.want) || left != 0 || w.RefersToCertificates(s) != step.refers {
			t.Errorf("%s: %v are used, %d left out, want %v", step.what, got, left, step.want)
		}
	}
}

// TestAListenerSetRecomputesItsGateway and what attaches to the two, nothing else.
func TestAListenerSetRecomputesItsGateway(t *testing.T) {
	w := newWorld(testConfig)
	other := openGateway("edge", "other", 100, "HTTP 80")
	other.Spec.Addresses = []gwv1.GatewaySpecAddress{{Value: "192.0.2.9"}}
	w.put(t, classOf("weft", ControllerName), other, openGateway("edge", "gw", 100, "HTTP 80 own.example"), simpleService("tenant", "web"), simpleService("edge", "web"))
	for _, name := range []string{"one", "two"} {
		route := serviceRoute("tenant", name, "web", 1)
		route.Spec.ParentRefs = []gwv1.ParentReference{{Kind: new(gwv1.Kind("ListenerSet")), Name: gwv1.ObjectName(name)}}
		w.put(t, listenerSet("tenant", name, 1, "HTTP 80 "+name+".example"), route)
	}
	for _, name := range []string{"gw", "other"} {
		route := serviceRoute("edge", name, "web", 1)
		route.Spec.ParentRefs = []gwv1.ParentReference{{Name: gwv1.ObjectName(name)}}
		w.put(t, route)
	}
	w.Sync()
	ran := w.record(t)
	w.put(t, listenerSet("tenant", "two", 1, "HTTP 80 changed.example"))
	w.Sync()
	want := []string{
		"Gateway edge/gw", "HTTPRoute tenant/two", "ListenerSet tenant/two", "addresses ", "demand of a Gateway edge/gw",
		"demand of an HTTPRoute tenant/two", "listeners of a Gateway edge/gw", "route budget ", "route conflicts of a ListenerSet tenant/two",
	}
	got := slices.DeleteFunc(slices.Sorted(maps.Keys(ran())), func(u string) bool { return u == "addresses " })
	want = slices.DeleteFunc(want, func(u string) bool { return u == "addresses " })
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("units that ran: %s", d)
	}
}

// record returns what returns the units that ran since.
func (w *world) record(t *testing.T) func() map[string]bool {
	t.Helper()
	ran := map[string]bool{}
	for _, kind := range unitKinds {
		compute := kind.compute
		kind.compute = func(v *view, key string) ([]output, bool) {
			ran[kind.name+" "+key] = true
			return compute(v, key)
		}
		t.Cleanup(func() { kind.compute = compute })
	}
	return func() map[string]bool { return ran }
}
