package gateway

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TestPodsOfOtherNamespacesAreNotGranted: who may write an EndpointSlice must not send requests to a pod of another namespace
// under the identity of a Gateway or of a caller. The pod's namespace may allow it.
func TestPodsOfOtherNamespacesAreNotGranted(t *testing.T) {
	w := newWorld(testConfig)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "evil", Name: "s", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: new(int32(8080))}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1", "10.0.0.2", "192.0.2.9"}}},
	}
	w.put(t, slice,
		&corev1.Service{ObjectMeta: created("evil", "s", 1), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80}}}},
		&corev1.Pod{ObjectMeta: created("bank", "vault", 1), Status: corev1.PodStatus{PodIP: "10.0.0.1"}},
		&corev1.Pod{ObjectMeta: created("evil", "own", 1), Status: corev1.PodStatus{PodIP: "10.0.0.2"}},
	)
	want := func(what string, vault bool) {
		t.Helper()
		w.Sync()
		e, ok := w.st.Endpoints.Get(w.st.Snapshot(), "evil/s/80")
		if !ok || len(e.Backends) != 3 {
			t.Fatalf("%s: endpoints %+v", what, e)
		}
		for i, wanted := range []bool{vault, false, false} {
			if e.Backends[i].NotGranted != wanted {
				t.Errorf("%s: %s is not granted: %v, want %v", what, e.Backends[i].Address, !wanted, wanted)
			}
		}
	}
	said := func() bool { return strings.Contains(w.problemOf("Service", "evil", "s"), "ForeignEndpoint") }
	grant := func(group gwv1.Group, kind gwv1.Kind, to gwv1.Kind) {
		w.put(t, &gwv1.ReferenceGrant{ObjectMeta: created("bank", "g", 1), Spec: gwv1.ReferenceGrantSpec{
			From: []gwv1.ReferenceGrantFrom{{Group: group, Kind: kind, Namespace: "evil"}}, To: []gwv1.ReferenceGrantTo{{Kind: to}},
		}})
	}
	want("without a grant", true)
	if p := w.problemOf("Service", "evil", "s"); !said() || !strings.Contains(p, "10.0.0.1") || !strings.Contains(p, "ReferenceGrant") {
		t.Errorf("the status says %q", p)
	}
	grant(gwv1.GroupName, "HTTPRoute", "Service")
	want("with a grant for routes", true)
	grant("", "Service", "Pod")
	want("with a grant", false)
	if said() {
		t.Error("the status names an endpoint that is allowed")
	}
}
