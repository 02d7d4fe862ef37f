package gateway

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
)

// TestTraceSampling: pods and Gateways have what their namespace wants, also when it changes its mind.
func TestTraceSampling(t *testing.T) {
	w := newWorld(testConfig)
	labelled := func(percent string) *corev1.Namespace {
		ns := &corev1.Namespace{ObjectMeta: created("", "ns", 1)}
		ns.Labels = map[string]string{kube.LabelTraceSampling: percent}
		return ns
	}
	w.put(t, labelled("12.5"),
		&corev1.Pod{ObjectMeta: created("ns", "pod", 1), Status: corev1.PodStatus{PodIP: "10.0.0.1"}},
		&gwv1.GatewayClass{ObjectMeta: created("", "weft", 9), Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
		&gwv1.Gateway{ObjectMeta: created("ns", "gw", 9), Spec: gwv1.GatewaySpec{GatewayClassName: "weft", Listeners: []gwv1.Listener{
			{Name: "http", Protocol: gwv1.HTTPProtocolType, Port: 80},
		}}})
	check := func(want float64, problem bool) {
		t.Helper()
		w.Sync()
		snap := w.st.Snapshot()
		pod, _ := w.st.Workloads.Get(snap, "ns/pod")
		gw, _ := w.st.Gateways.Get(snap, "ns/gw")
		if want < 0 {
			if pod.TraceSampling != nil || gw.TraceSampling != nil {
				t.Errorf("pod %v, Gateway %v, want nothing", pod.TraceSampling, gw.TraceSampling)
			}
		} else if pod.TraceSampling == nil || *pod.TraceSampling != want || gw.TraceSampling == nil || *gw.TraceSampling != want {
			t.Errorf("pod %v, Gateway %v, want %v", pod.TraceSampling, gw.TraceSampling, want)
		}
		if _, ok := w.st.Statuses.Get(snap, "Pod/ns/pod"); ok != problem {
			t.Errorf("the pod has a problem: %t, want %t", ok, problem)
		}
	}
	check(12.5, false)
	w.put(t, labelled("0"))
	check(0, false)
	w.put(t, labelled("many"))
	check(-1, true)
}
