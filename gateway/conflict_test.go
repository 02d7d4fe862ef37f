package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// created gives metadata of an object that is so many seconds old.
func created(namespace, name string, age int) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-time.Duration(age) * time.Second)),
	}
}

// TestAddressesAreNotTakenByNamingThem: who may write a Service may name any address in it, at any time before or after.
func TestAddressesAreNotTakenByNamingThem(t *testing.T) {
	cfg := testConfig
	cfg.Addresses = AddressesOfPools
	w := newWorld(cfg)
	thief := func(name, address string, age int) *corev1.Service {
		return &corev1.Service{ObjectMeta: created("evil", name, age), Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.99", ExternalIPs: []string{address}, Ports: []corev1.ServicePort{{Port: 53}, {Port: 80}},
		}}
	}
	gateway := &gwv1.Gateway{ObjectMeta: created("ns", "gw", 50), Spec: gwv1.GatewaySpec{
		GatewayClassName: "weft", Addresses: []gwv1.GatewaySpecAddress{{Value: "192.0.2.7"}},
		Listeners: []gwv1.Listener{{Name: "http", Protocol: gwv1.HTTPProtocolType, Port: 80}},
	}}
	w.put(t,
		&gwv1.GatewayClass{ObjectMeta: created("", "weft", 99), Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
		&weftv1.AddressPool{ObjectMeta: created("", "edge", 99), Spec: weftv1.AddressPoolSpec{Addresses: []string{"192.0.2.0/29"}}},
		&corev1.Service{ObjectMeta: created("kube-system", "dns", 10), Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"}, Ports: []corev1.ServicePort{{Port: 53}},
		}},
		gateway, thief("of-a-service", "10.96.0.10", 90), thief("of-a-gateway", "192.0.2.7", 20), thief("free", "192.0.2.6", 20),
	)
	w.Sync()
	s := w.st.Snapshot()
	for key, want := range map[string][]string{
		"kube-system/dns": {"10.96.0.10"}, "evil/of-a-service": {"10.96.0.99"}, "evil/of-a-gateway": nil, "evil/free": {"192.0.2.6"},
	} {
		svc, ok := w.st.Services.Get(s, key)
		if !ok {
			t.Fatalf("there is no Service %s", key)
		}
		for _, text := range want {
			if !slices.Contains(svc.Addresses, netip.MustParseAddr(text)) {
				t.Errorf("Service %s has %v, not %s", key, svc.Addresses, text)
			}
		}
		for _, taken := range []string{"10.96.0.10", "192.0.2.7"} {
			if key != "kube-system/dns" && slices.Contains(svc.Addresses, netip.MustParseAddr(taken)) {
				t.Errorf("Service %s took %s", key, taken)
			}
		}
	}
	if gw, ok := w.st.Gateways.Get(s, "ns/gw"); !ok || len(gw.Addresses) != 1 {
		t.Errorf("the Gateway lost its address to a younger Service: %v", gw)
	}

	w.put(t, thief("before", "192.0.2.5", 90), &gwv1.Gateway{ObjectMeta: created("ns", "late", 1), Spec: gwv1.GatewaySpec{
		GatewayClassName: "weft", Addresses: []gwv1.GatewaySpecAddress{{Value: "192.0.2.5"}},
		Listeners: []gwv1.Listener{{Name: "http", Protocol: gwv1.HTTPProtocolType, Port: 80}},
	}})
	w.Sync()
	if _, ok := w.st.Gateways.Get(w.st.Snapshot(), "ns/late"); ok {
		t.Error("a Gateway took the address of an older Service")
	}
}

// TestNoServiceTakesTheAPIServer: a node that cannot reach it could not learn that the Service is gone.
func TestNoServiceTakesTheAPIServer(t *testing.T) {
	cfg := testConfig
	cfg.APIServer = netip.MustParseAddrPort("192.0.2.1:443")
	w := newWorld(cfg)
	thief := func(name, address string, port int32) *corev1.Service {
		return &corev1.Service{ObjectMeta: created("evil", name, 90), Spec: corev1.ServiceSpec{
			ExternalIPs: []string{address}, Ports: []corev1.ServicePort{{Port: port}},
		}}
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: created("default", "kubernetes", 9), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Port: new(int32(6443))}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.2"}}},
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "kubernetes"}
	w.put(t, slice, thief("a", "192.0.2.1", 443), thief("b", "192.0.2.2", 6443), thief("c", "192.0.2.2", 80),
		&corev1.Service{ObjectMeta: created("default", "kubernetes", 9), Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 443}},
		}})
	w.Sync()
	for name, want := range map[string]int{"evil/a": 0, "evil/b": 0, "evil/c": 1, "default/kubernetes": 1} {
		if svc, ok := w.st.Services.Get(w.st.Snapshot(), name); !ok || len(svc.Addresses) != want {
			t.Errorf("Service %s: %v, want %d addresses", name, svc, want)
		}
	}
}

// TestOneServiceDoesNotTakeAllOfTheKernelsTables: an object of a megabyte holds this.
func TestOneServiceDoesNotTakeAllOfTheKernelsTables(t *testing.T) {
	w := newWorld(testConfig)
	svc := &corev1.Service{ObjectMeta: created("ns", "huge", 1), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}}}
	for i := range 500 {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", i), Port: int32(i + 1)})
	}
	for i := range 20_000 {
		svc.Spec.ExternalIPs = append(svc.Spec.ExternalIPs, netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}).String())
	}
	w.put(t, svc)
	w.Sync()
	s := w.st.Snapshot()
	got, ok := w.st.Services.Get(s, "ns/huge")
	if !ok || len(got.Ports) != 500 || len(got.Addresses)*len(got.Ports) > maxFrontends || got.Addresses[0].String() != "10.96.0.1" {
		t.Errorf("%d addresses, %d ports", len(got.Addresses), len(got.Ports))
	}
	st, ok := w.st.Statuses.Get(s, (&model.Status{Object: model.ObjectRef{Kind: "Service", Namespace: "ns", Name: "huge"}}).Key())
	if !ok || st.Conditions[0].Status || len(st.Conditions[0].Message) > 1000 {
		t.Errorf("status %+v", st)
	}
}

func TestWiderHostsAreAllWildcardsThatCover(t *testing.T) {
	all := []string{"*", "*.com", "*.example.com", "*.a.example.com", "*.b.example.com", "a.example.com", "x.a.example.com", "example.com", "com"}
	for _, h := range all {
		var want []string
		for _, w := range all {
			if strings.HasPrefix(w, "*") && w != h && covers(w, h) {
				want = append(want, w)
			}
		}
		got := slices.DeleteFunc(widerHosts(h), func(w string) bool { return !slices.Contains(all, w) })
		slices.Reverse(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s is covered by %v, want %v", h, got, want)
		}
	}
}

// TestHostSetFindsWhatOverlapFinds: the set is only faster.
func TestHostSetFindsWhatOverlapFinds(t *testing.T) {
	all := []string{"*", "*.com", "*.example.com", "*.a.example.com", "a.example.com", "x.a.example.com", "example.com", "other.com", "com"}
	for _, in := range all {
		s := newHostSet()
		s.add(in)
		for _, h := range all {
			if got, want := s.overlaps(h), overlap([]string{in}, []string{h}); got != want {
				t.Errorf("%s and %s: %v, want %v", in, h, got, want)
			}
		}
	}
}

// TestAStaticPodHasNoIdentity: a node can make the mirror of a static pod in any namespace.
func TestAStaticPodHasNoIdentity(t *testing.T) {
	for _, source := range []AddressSource{AddressesOfStatus, AddressesOfPools} {
		cfg := testConfig
		cfg.Addresses = source
		w := newWorld(cfg)
		meta := created("ns", "static", 1)
		meta.Labels = map[string]string{labelMTLS: "strict"}
		meta.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
		w.put(t, &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: "node-1"}, Status: corev1.PodStatus{PodIP: "10.0.0.1"}})
		w.Sync()
		if l, ok := w.st.Workloads.Get(w.st.Snapshot(), "ns/static"); !ok || l.Identity != "" || l.MTLS != model.MTLSStrict {
			t.Errorf("workload %+v", l)
		}
	}
}
