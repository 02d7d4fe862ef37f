package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/weft-mesh/weft/internal/kube"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
)

// TestIncrementalEqualsFromScratch puts and deletes objects in any order and number between two runs of Sync. The
// tables must be those of a translator that saw only the last state. AddressPools are left out, and Gateways of two namespaces
// ask for different addresses: who gets one depends on who came first, which is what the allocator is for.
func TestIncrementalEqualsFromScratch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(testConfig)
		present := map[string]runtime.Object{}
		for range rapid.IntRange(1, 12).Draw(t, "syncs") {
			changes := drawChanges(t) // before the transaction: a case that rapid gives up would leave it open
			txn := w.objs.Write()
			for _, c := range changes {
				gk, key := identify(c.object)
				id := gk.String() + " " + key
				if c.deleted {
					if err := w.objs.Delete(txn, gk, key); err != nil {
						t.Fatal(err)
					}
					delete(present, id)
					continue
				}
				if err := w.objs.Put(txn, c.object); err != nil {
					t.Fatal(err)
				}
				present[id] = c.object
			}
			txn.Commit()
			w.Sync()

			fresh := newWorld(testConfig)
			txn = fresh.objs.Write()
			for _, o := range present {
				if err := fresh.objs.Put(txn, o); err != nil {
					t.Fatal(err)
				}
			}
			txn.Commit()
			txn = fresh.st.Write(fresh.selections)
			for s := range w.selections.All(w.st.Snapshot()) { // what a policy selected before is kept, so it is given
				fresh.selections.Put(txn, s)
			}
			txn.Commit()
			fresh.Sync()
			if d := cmp.Diff(text(t, fresh.model(), fresh.statuses()), text(t, w.model(), w.statuses())); d != "" {
				t.Fatalf("incremental differs from scratch (-scratch +incremental):\n%s", d)
			}
		}
	})
}

// change is an object that is put, or deleted.
type change struct {
	object  runtime.Object
	deleted bool
}

func drawChanges(t *rapid.T) []change {
	var out []change
	for range rapid.IntRange(1, 8).Draw(t, "changes") {
		o := drawObject(t)
		out = append(out, change{o, !validSecret(o) && rapid.IntRange(0, 3).Draw(t, "delete") == 0})
	}
	return out
}

func text(t rapid.TB, vs ...any) string {
	out := ""
	for _, v := range vs {
		b, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out += string(b)
	}
	return out
}

func identify(o runtime.Object) (schema.GroupKind, string) {
	gvks, _, err := kube.Scheme().ObjectKinds(o)
	if err != nil {
		panic(err)
	}
	return gvks[0].GroupKind(), kube.Key(o.(metav1.Object))
}

// pick draws one of few values, so that objects meet.
func pick[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

func drawMeta(t *rapid.T, names ...string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:         pick(t, "namespace", "a", "b"),
		Name:              pick(t, "name", names...),
		CreationTimestamp: metav1.NewTime(time.Unix(int64(pick(t, "age", 1, 2)), 0)),
	}
}

func drawObject(t *rapid.T) runtime.Object {
	return pick(t, "kind", drawPod, drawService, drawSlice, drawHTTPRoute, drawHTTPRoute, drawGRPCRoute, drawUDPRoute, drawGateway, drawListenerSet,
		drawClass, drawNamespace, drawGrant, drawPolicy, drawSecret, drawTLSPolicy, drawTelemetryPolicy, drawConfigMap)(t)
}

func drawPod(t *rapid.T) runtime.Object {
	p := &corev1.Pod{ObjectMeta: drawMeta(t, "p1", "p2", "p3")}
	p.Labels = map[string]string{"app": pick(t, "app", "x", "y")}
	if mode := pick(t, "mtls", "", "strict", "permissive", "wrong"); mode != "" {
		p.Labels["weft.io/mtls"] = mode
	}
	p.Annotations = map[string]string{
		kube.AnnotationIP:    fmt.Sprintf("10.0.0.%d", pick(t, "ip", 1, 2, 3)),
		kube.AnnotationNetNS: pick(t, "netns", "", "n1", "n2"),
	}
	p.Status.Phase = pick(t, "phase", corev1.PodRunning, corev1.PodPending, corev1.PodFailed)
	p.Spec.HostNetwork = pick(t, "host", false, false, false, true)
	return p
}

func drawService(t *rapid.T) runtime.Object {
	s := &corev1.Service{ObjectMeta: drawMeta(t, "s1", "s2")}
	s.Spec.ClusterIP = pick(t, "clusterIP", "10.96.0.1", "10.96.0.2", "None", "10.0.0.1", "")
	s.Spec.Selector = map[string]string{"app": pick(t, "app", "x", "y")}
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: pick(t, "port", int32(80), 81), TargetPort: intstr.FromInt32(8080)}}
	if pick(t, "udp", false, true) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "udp", Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolUDP})
	}
	s.Spec.Type = pick(t, "type", corev1.ServiceTypeClusterIP, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName)
	if l7 := pick(t, "l7", "", "", "enabled", "disabled"); l7 != "" {
		s.Labels = map[string]string{labelL7: l7}
	}
	return s
}

func drawSlice(t *rapid.T) runtime.Object {
	s := &discoveryv1.EndpointSlice{ObjectMeta: drawMeta(t, "e1")}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: pick(t, "service", "s1", "s2")}
	s.Ports = []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}}
	s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{pick(t, "address", "10.0.0.1", "10.0.0.9")}}}
	return s
}

func drawParent(t *rapid.T) gwv1.ParentReference {
	p := gwv1.ParentReference{Namespace: new(gwv1.Namespace(pick(t, "parent namespace", "a", "b")))}
	if pick(t, "mesh", true, false) {
		p.Group, p.Kind = new(gwv1.Group("")), new(gwv1.Kind("Service"))
		p.Name = pick(t, "service", gwv1.ObjectName("s1"), "s2")
		return p
	}
	p.Name = pick(t, "gateway", gwv1.ObjectName("g1"), "g2")
	p.Kind = pick(t, "parent", nil, nil, new(gwv1.Kind("ListenerSet")))
	if pick(t, "section", true, false) {
		p.SectionName = new(pick(t, "listener", gwv1.SectionName("l0"), "l1"))
	}
	return p
}

func drawBackend(t *rapid.T) gwv1.BackendRef {
	return gwv1.BackendRef{
		BackendObjectReference: gwv1.BackendObjectReference{
			Name:      pick(t, "backend", gwv1.ObjectName("s1"), "s2"),
			Namespace: new(gwv1.Namespace(pick(t, "backend namespace", "a", "b"))),
			Port:      new(pick(t, "backend port", gwv1.PortNumber(80), 81)),
		},
		Weight: new(int32(rapid.IntRange(-1, 2).Draw(t, "weight"))),
	}
}

func drawTelemetryPolicy(t *rapid.T) runtime.Object {
	p := &gwxv1.XTelemetryPolicy{ObjectMeta: drawMeta(t, "t1", "t2")}
	for _, name := range pick(t, "gateways", []gwv1.ObjectName{"g1"}, []gwv1.ObjectName{"g2"}, []gwv1.ObjectName{"g1", "g2"}) {
		p.Spec.TargetRefs = append(p.Spec.TargetRefs, gwv1.LocalObjectReference{Group: gwv1.GroupName, Kind: "Gateway", Name: name})
	}
	p.Spec.Tracing.Mode = pick(t, "mode", gwxv1.TracingModeEnabled, gwxv1.TracingModeEnabled, gwxv1.TracingModeDisabled, gwxv1.TracingModeImplementationDefault)
	if p.Spec.Tracing.Mode == gwxv1.TracingModeEnabled {
		p.Spec.Tracing.Provider.BackendRef = drawBackend(t).BackendObjectReference
		p.Spec.Tracing.SamplingRate = pick(t, "rate", nil, &gwv1.Fraction{Numerator: 5}, &gwv1.Fraction{Numerator: 500})
	}
	return p
}

func drawHostnames(t *rapid.T) []gwv1.Hostname {
	return pick(t, "hostnames", nil, []gwv1.Hostname{"x.example.com"}, []gwv1.Hostname{"*.example.com", "y.org"}, []gwv1.Hostname{"*.com"})
}

func drawHTTPRoute(t *rapid.T) runtime.Object {
	r := &gwv1.HTTPRoute{ObjectMeta: drawMeta(t, "r1", "r2", "r3")}
	r.Spec.ParentRefs = []gwv1.ParentReference{drawParent(t), drawParent(t)}
	r.Spec.Hostnames = drawHostnames(t)
	for range rapid.IntRange(0, 2).Draw(t, "rules") {
		r.Spec.Rules = append(r.Spec.Rules, gwv1.HTTPRouteRule{
			Matches:     []gwv1.HTTPRouteMatch{{Path: &gwv1.HTTPPathMatch{Value: new(pick(t, "path", "/", "/a", "/a/b", "bad"))}}},
			BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: drawBackend(t)}},
		})
	}
	return r
}

func drawGRPCRoute(t *rapid.T) runtime.Object {
	r := &gwv1.GRPCRoute{ObjectMeta: drawMeta(t, "r1", "r2")}
	r.Spec.ParentRefs = []gwv1.ParentReference{drawParent(t)}
	r.Spec.Hostnames = drawHostnames(t)
	r.Spec.Rules = []gwv1.GRPCRouteRule{{BackendRefs: []gwv1.GRPCBackendRef{{BackendRef: drawBackend(t)}}}}
	return r
}

func drawUDPRoute(t *rapid.T) runtime.Object {
	r := &gwv1.UDPRoute{ObjectMeta: drawMeta(t, "r1", "r2")}
	r.Spec.ParentRefs = []gwv1.ParentReference{drawParent(t)}
	r.Spec.Rules = []gwv1.UDPRouteRule{{BackendRefs: []gwv1.BackendRef{drawBackend(t)}}}
	return r
}

func drawGateway(t *rapid.T) runtime.Object {
	g := &gwv1.Gateway{ObjectMeta: drawMeta(t, "g1", "g2")}
	g.Spec.GatewayClassName = pick(t, "class", gwv1.ObjectName("weft"), "other")
	if pick(t, "static", true, false) {
		last := map[string]string{"a": "1", "b": "2"}[g.Namespace]
		g.Spec.Addresses = []gwv1.GatewaySpecAddress{{Value: pick(t, "address", "192.0.2.", "10.0.0.", "10.96.0.") + last}}
	}
	g.Spec.AllowedListeners = &gwv1.AllowedListeners{Namespaces: &gwv1.ListenerNamespaces{
		From:     pick(t, "allowed", nil, new(gwv1.NamespacesFromAll), new(gwv1.NamespacesFromSame), new(gwv1.NamespacesFromSelector)),
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}},
	}}
	g.Spec.Listeners = drawListeners(t)
	return g
}

func drawListenerSet(t *rapid.T) runtime.Object {
	s := &gwv1.ListenerSet{ObjectMeta: drawMeta(t, "g1", "g2")}
	s.Spec.ParentRef = gwv1.ParentGatewayReference{
		Name: pick(t, "gateway", gwv1.ObjectName("g1"), "g2"), Namespace: new(gwv1.Namespace(pick(t, "gateway namespace", "a", "b"))),
	}
	for _, l := range drawListeners(t) {
		s.Spec.Listeners = append(s.Spec.Listeners, gwv1.ListenerEntry(l))
	}
	return s
}

func drawListeners(t *rapid.T) (out []gwv1.Listener) {
	for i := range rapid.IntRange(1, 3).Draw(t, "listeners") {
		l := gwv1.Listener{Name: gwv1.SectionName(fmt.Sprintf("l%d", i)), Port: pick(t, "port", gwv1.PortNumber(80), 443), Protocol: gwv1.HTTPProtocolType}
		if l.Port == 80 && pick(t, "udp", false, false, true) {
			l.Protocol = gwv1.UDPProtocolType
		}
		if l.Port == 443 {
			l.Protocol = pick(t, "protocol", gwv1.HTTPSProtocolType, gwv1.HTTPSProtocolType, gwv1.HTTPProtocolType)
			l.TLS = &gwv1.ListenerTLSConfig{CertificateRefs: []gwv1.SecretObjectReference{{
				Name: "k1", Namespace: new(gwv1.Namespace(pick(t, "secret namespace", "a", "b"))),
			}}}
		}
		if h := pick(t, "hostname", gwv1.Hostname(""), "*.example.com", "x.example.com"); h != "" {
			l.Hostname = &h
		}
		l.AllowedRoutes = &gwv1.AllowedRoutes{Namespaces: &gwv1.RouteNamespaces{
			From:     new(pick(t, "from", gwv1.NamespacesFromAll, gwv1.NamespacesFromSame, gwv1.NamespacesFromSelector)),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}},
		}}
		out = append(out, l)
	}
	return out
}

func drawClass(t *rapid.T) runtime.Object {
	return &gwv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: pick(t, "class", "weft", "other")},
		Spec:       gwv1.GatewayClassSpec{ControllerName: pick(t, "controller", gwv1.GatewayController(ControllerName), ControllerName, "example.com/x")},
	}
}

func drawNamespace(t *rapid.T) runtime.Object {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pick(t, "namespace", "a", "b"), Labels: map[string]string{
		"weft.io/mtls": pick(t, "mtls", "strict", "disabled"), labelL7: pick(t, "l7", "enabled", ""), "team": pick(t, "team", "x", "y"),
	}}}
}

func drawGrant(t *rapid.T) runtime.Object {
	return &gwv1.ReferenceGrant{ObjectMeta: drawMeta(t, "grant"), Spec: gwv1.ReferenceGrantSpec{
		From: []gwv1.ReferenceGrantFrom{
			{Group: gwv1.GroupName, Kind: pick(t, "from", gwv1.Kind("HTTPRoute"), "Gateway", "ListenerSet"), Namespace: pick(t, "from namespace", gwv1.Namespace("a"), "b")},
			{Group: gwxv1.GroupName, Kind: "XTelemetryPolicy", Namespace: pick(t, "from namespace", gwv1.Namespace("a"), "b")},
		},
		To: []gwv1.ReferenceGrantTo{{Kind: pick(t, "to", gwv1.Kind("Service"), "Secret")}},
	}}
}

func drawPolicy(t *rapid.T) runtime.Object {
	p := &weftv1.AuthorizationPolicy{ObjectMeta: drawMeta(t, "policy", "policy-2")}
	p.Spec.Action = weftv1.ActionAllow
	p.Spec.TargetRefs = pick(t, "targets", nil,
		[]weftv1.PolicyTarget{{Kind: "Service", Name: "s1"}},
		[]weftv1.PolicyTarget{{Kind: "Pod", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}})
	p.Spec.Rules = []weftv1.AuthorizationRule{{
		Sources: []weftv1.AuthorizationSource{{Type: weftv1.SourceNamespace, Namespace: pick(t, "source", "a", "not/one")}},
		HTTP:    pick(t, "http", nil, []weftv1.HTTPAttributes{{Methods: []string{"GET"}}}),
	}}
	return p
}

func drawTLSPolicy(t *rapid.T) runtime.Object {
	p := tlsPolicyFor("", "", pick(t, "target", "s1", "s2"), 0, pick(t, "configmap", "ca", "none"))
	p.ObjectMeta = drawMeta(t, "t1", "t2")
	if s := pick(t, "section", "", "http"); s != "" {
		p.Spec.TargetRefs[0].SectionName = new(gwv1.SectionName(s))
	}
	return p
}

func drawConfigMap(t *rapid.T) runtime.Object {
	pem, _ := keyPair()
	m := caConfigMap("", "", pick(t, "certificates", string(pem), "nonsense"))
	m.ObjectMeta = drawMeta(t, "ca")
	return m
}

func drawSecret(t *rapid.T) runtime.Object {
	s := &corev1.Secret{ObjectMeta: drawMeta(t, "k1"), Data: map[string][]byte{}}
	s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey] = keyPair()
	if s.Namespace == "b" {
		s.Data[corev1.TLSPrivateKeyKey] = []byte("nonsense")
	}
	return s
}

func validSecret(o runtime.Object) bool {
	s, ok := o.(*corev1.Secret)
	return ok && s.Namespace != "b"
}
