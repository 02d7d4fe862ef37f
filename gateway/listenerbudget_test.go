package gateway

import (
	"fmt"
	"strings"
	"testing"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// portsGateway asks for an address and n ports of it. Gateways of a higher order are younger.
func portsGateway(namespace, name, address string, order, n int) *gwv1.Gateway {
	gw := &gwv1.Gateway{ObjectMeta: created(namespace, name, 1000-order), Spec: gwv1.GatewaySpec{
		GatewayClassName: "weft", Addresses: []gwv1.GatewaySpecAddress{{Value: address}},
	}}
	for i := range n {
		gw.Spec.Listeners = append(gw.Spec.Listeners, gwv1.Listener{
			Name: gwv1.SectionName(fmt.Sprint("l", i)), Protocol: gwv1.HTTPProtocolType, Port: gwv1.PortNumber(1000 + i),
		})
	}
	return gw
}

// TestListenersHaveABudget: 220 Gateways of 64 ports took all of Envoy's heap. The older ones stay as far as they fit, and those of
// others, which are younger, stay too.
func TestListenersHaveABudget(t *testing.T) {
	w := newWorld(testConfig)
	w.put(t, classOf("weft", ControllerName))
	const fit = maxServedListeners * defaultShare / 100 / maxListeners
	for i := range fit + 3 {
		w.put(t, portsGateway("greedy", fmt.Sprintf("g%03d", i), fmt.Sprintf("10.98.0.%d", i+1), i, maxListeners))
	}
	w.put(t, portsGateway("modest", "late", "10.98.1.1", 900, 2))
	w.Sync()
	served := func(key string) bool { _, ok := w.st.Gateways.Get(w.st.Snapshot(), key); return ok }
	for i := range fit + 3 {
		if key := fmt.Sprintf("greedy/g%03d", i); served(key) != (i < fit) {
			t.Errorf("%s is served: %t, and %d fit", key, served(key), fit)
		}
	}
	if !served("modest/late") {
		t.Error("another namespace's Gateway is not served")
	}
	s, _ := w.st.Statuses.Get(w.st.Snapshot(), gatewayRefOf(fmt.Sprintf("greedy/g%03d", fit)).String())
	c := s.Conditions[1]
	if c.Type != "Programmed" || c.Status || c.Reason != string(gwv1.GatewayReasonNoResources) || !strings.Contains(c.Message, "leave 0 of its 2048 listeners") {
		t.Errorf("the first that does not fit: %+v", c)
	}
	w.remove(t, "Gateway", "greedy/g000")
	w.Sync()
	if !served(fmt.Sprintf("greedy/g%03d", fit)) || served(fmt.Sprintf("greedy/g%03d", fit+1)) {
		t.Error("the room of a Gateway that is deleted is not for the oldest that waits")
	}
}
