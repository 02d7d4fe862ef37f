package gateway

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// manyRoutes puts n Services with a pod and an HTTPRoute each.
func manyRoutes(b *testing.B, n int) *world {
	w := newWorld(testConfig)
	var objects []runtime.Object
	for i := range n {
		name := fmt.Sprintf("web-%d", i)
		meta := metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": name}}
		address := fmt.Sprintf("10.%d.%d.%d", 128+i>>16, i>>8&255, i&255)
		objects = append(objects,
			&corev1.Pod{ObjectMeta: meta, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address}},
			&corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
				ClusterIP: fmt.Sprintf("10.%d.%d.%d", 64+i>>16, i>>8&255, i&255),
				Selector:  map[string]string{"app": name},
				Ports:     []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
			}},
			serviceRoute("shop", name, name, 1))
	}
	w.put(b, objects...)
	return w
}

// serviceRoute is an HTTPRoute on a Service that sends its traffic back to it with a weight.
func serviceRoute(namespace, name, service string, weight int32) *gwv1.HTTPRoute {
	port := gwv1.PortNumber(80)
	backend := gwv1.BackendRef{
		BackendObjectReference: gwv1.BackendObjectReference{Name: gwv1.ObjectName(service), Port: &port}, Weight: &weight,
	}
	return &gwv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: gwv1.HTTPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{
				Group: new(gwv1.Group("")), Kind: new(gwv1.Kind("Service")), Name: gwv1.ObjectName(service),
			}}},
			Rules: []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: backend}}}},
		},
	}
}

// BenchmarkChangeOneRoute changes one of n HTTPRoutes, each on a Service of its own, and translates.
func BenchmarkChangeOneRoute(b *testing.B) {
	for _, n := range []int{10, 1_000, 10_000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			w := manyRoutes(b, n)
			w.Sync()
			weight := int32(1)
			b.ReportAllocs()
			for b.Loop() {
				weight = 3 - weight
				w.put(b, serviceRoute("shop", "web-7", "web-7", weight))
				w.Sync()
			}
			table, ok := w.st.RouteTables.Get(w.st.Snapshot(), "service/shop/web-7/80")
			if !ok || table.VirtualHosts[0].Rules[0].Backends[0].Weight != uint32(weight) {
				b.Fatalf("the change did not arrive: %+v", table)
			}
		})
	}
}

// BenchmarkChangeOneGatewayRoute is the same with all routes on one Gateway, each with a hostname of its own.
func BenchmarkChangeOneGatewayRoute(b *testing.B) {
	for _, n := range []int{10, 1_000, 10_000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			w := manyRoutes(b, n)
			objects := []runtime.Object{
				&gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "weft"}, Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
				&gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "edge"}, Spec: gwv1.GatewaySpec{
					GatewayClassName: "weft", Listeners: []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}},
				}},
			}
			route := func(i int, weight int32) *gwv1.HTTPRoute {
				name := fmt.Sprintf("web-%d", i)
				r := serviceRoute("shop", name, name, weight)
				r.Spec.ParentRefs = []gwv1.ParentReference{{Name: "edge"}}
				r.Spec.Hostnames = []gwv1.Hostname{gwv1.Hostname(name + ".example.com")}
				return r
			}
			for i := range n {
				objects = append(objects, route(i, 1))
			}
			w.put(b, objects...)
			w.Sync()
			weight := int32(1)
			b.ReportAllocs()
			for b.Loop() {
				weight = 3 - weight
				w.put(b, route(7, weight))
				w.Sync()
			}
		})
	}
}

// BenchmarkFirstSync translates everything from nothing.
func BenchmarkFirstSync(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		w := manyRoutes(b, 10_000)
		b.StartTimer()
		w.Sync()
	}
}
