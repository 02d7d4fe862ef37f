package gateway

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// TestPodThatIsDeletedTerminatesAtOnce: its EndpointSlice tells so later.
func TestPodThatIsDeletedTerminatesAtOnce(t *testing.T) {
	w := newWorld(testConfig)
	svc, slice, pod := slicedService("ns", "web", "10.0.0.1")
	w.put(t, svc, slice, pod)
	w.Sync()
	terminating := func() bool {
		t.Helper()
		e, ok := w.st.Endpoints.Get(w.st.Snapshot(), model.PortKey("ns", "web", 80, model.TCP))
		if !ok || len(e.Backends) != 1 {
			t.Fatalf("endpoints: %+v", e)
		}
		return e.Backends[0].Terminating
	}
	if terminating() {
		t.Error("a pod that runs is terminating")
	}
	deleted := pod.DeepCopy()
	deleted.DeletionTimestamp = &metav1.Time{}
	w.put(t, deleted)
	w.Sync()
	if !terminating() {
		t.Error("a pod that is deleted is not terminating")
	}
}

// slicedService is a Service of one ready endpoint, as a cluster has it.
func slicedService(namespace, name, address string) (*corev1.Service, *discoveryv1.EndpointSlice, *corev1.Pod) {
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	svc := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		Ports:      []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{address}}},
	}
	pod := &corev1.Pod{ObjectMeta: meta, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address}}
	return svc, slice, pod
}
