package gateway

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// tooHigh is 80 in its lowest 16 bits.
const tooHigh = 1<<16 + 80

// TestAPortThatIsNoneConflictsWithNoListener: a folder's manifest may hold any number.
func TestAPortThatIsNoneConflictsWithNoListener(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t,
		&gwv1.GatewayClass{ObjectMeta: created("", "weft", 9), Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
		&gwv1.Gateway{ObjectMeta: created("ns", "gw", 9), Spec: gwv1.GatewaySpec{GatewayClassName: "weft", Listeners: []gwv1.Listener{
			{Name: "good", Protocol: gwv1.HTTPProtocolType, Port: 80},
			{Name: "same-hostname", Protocol: gwv1.HTTPProtocolType, Port: tooHigh},
			{Name: "other-protocol", Protocol: gwv1.HTTPSProtocolType, Port: tooHigh},
			{Name: "zero", Protocol: gwv1.HTTPProtocolType, Port: 1 << 16},
			{Name: "zero-too", Protocol: gwv1.HTTPProtocolType, Port: 0},
		}}})
	w.Sync()
	gw, ok := w.st.Gateways.Get(w.st.Snapshot(), "ns/gw")
	if !ok || len(gw.Ports) != 1 || gw.Ports[0].Port != 80 {
		t.Errorf("the Gateway is %+v", gw)
	}
	s, _ := w.st.Statuses.Get(w.st.Snapshot(), "Gateway/ns/gw")
	for _, l := range s.Listeners {
		for _, c := range l.Conditions {
			if c.Type == model.ConditionConflicted && c.Status {
				t.Errorf("listener %s: %s", l.Name, c.Message)
			}
			if good := l.Name == "good"; c.Type == model.ConditionAccepted && c.Status != good {
				t.Errorf("listener %s is accepted: %t: %s", l.Name, c.Status, c.Message)
			}
		}
	}
}

// TestAPortThatIsNoneHidesNoServicePort: the target port is that of the port that is served.
func TestAPortThatIsNoneHidesNoServicePort(t *testing.T) {
	w := newWorld(testConfig)
	pod := &corev1.Pod{ObjectMeta: created("ns", "pod", 1), Status: corev1.PodStatus{PodIP: "10.0.0.1"}}
	pod.Labels = map[string]string{"app": "web"}
	w.put(t, pod, &corev1.Service{ObjectMeta: created("ns", "s", 1), Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.0.1", Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{
			{Name: "bad", Port: tooHigh, TargetPort: intstr.FromInt32(9999)}, {Name: "good", Port: 80, TargetPort: intstr.FromInt32(8080)},
		}}})
	w.Sync()
	e, ok := w.st.Endpoints.Get(w.st.Snapshot(), "ns/s/80")
	if !ok || len(e.Backends) != 1 || e.Backends[0].Address.Port() != 8080 {
		t.Errorf("endpoints are %+v", e)
	}
}

// TestTransportsHavePortsOfTheirOwn: of two Gateways with one address the older has a port of TCP, and the other one that of UDP
// with the same number. A second UDP port of that number is not accepted.
func TestTransportsHavePortsOfTheirOwn(t *testing.T) {
	w := newWorld(testConfig)
	gateway := func(name string, age int, protocol gwv1.ProtocolType) *gwv1.Gateway {
		return &gwv1.Gateway{ObjectMeta: created("ns", name, age), Spec: gwv1.GatewaySpec{
			GatewayClassName: "weft", Addresses: []gwv1.GatewaySpecAddress{{Value: "192.0.2.1"}},
			Listeners: []gwv1.Listener{{Name: "l", Protocol: protocol, Port: 53}},
		}}
	}
	w.put(t, &gwv1.GatewayClass{ObjectMeta: created("", "weft", 9), Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
		gateway("tcp", 3, gwv1.TCPProtocolType), gateway("udp", 2, gwv1.UDPProtocolType), gateway("late", 1, gwv1.UDPProtocolType))
	w.Sync()
	for name, want := range map[string]string{"tcp": "Accepted", "udp": "Accepted", "late": "PortUnavailable"} {
		s, ok := w.st.Statuses.Get(w.st.Snapshot(), "Gateway/ns/"+name)
		if !ok || len(s.Listeners) != 1 {
			t.Fatalf("the status of Gateway %s is %+v", name, s)
		}
		for _, c := range s.Listeners[0].Conditions {
			if c.Type == model.ConditionAccepted && c.Reason != want {
				t.Errorf("Gateway %s: %s: %s, want %s", name, c.Reason, c.Message, want)
			}
		}
	}
}
