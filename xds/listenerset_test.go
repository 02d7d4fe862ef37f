package xds

import (
	"slices"
	"testing"

	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// TestObjectsOfListenerSets: a refusal is told to the ListenerSets whose listeners it is about, and to the Gateway where one of
// its own is there too.
func TestObjectsOfListenerSets(t *testing.T) {
	w := newWorld(t, Config{})
	goldenListenerSets(w)
	gw, set := gatewayRef("shop", "edge", 0), listenerSetRef("tenant", "set", 2)
	route := model.ObjectVersion{ObjectRef: model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: "tenant", Name: "r"}}
	b := &builder{st: w.st, snap: w.st.Snapshot(), cfg: &w.server.cfg}
	for name, want := range map[string][]model.ObjectVersion{
		"gateway/shop/edge/443":  {gw, set},
		"gateway/shop/edge/8080": {set},
	} {
		n, _ := parseGatewayName(name)
		if got := buildGatewayListener(b, name, n).objects; !slices.Equal(got, want) {
			t.Errorf("listener %s comes from %v, want %v", name, got, want)
		}
	}
	for name, want := range map[string][]model.ObjectVersion{
		"gateway/shop/edge/443/https":            {gw, {ObjectRef: model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: "shop", Name: "r"}}},
		"gateway/shop/edge/443/tenant/set/https": {set, route},
		"gateway/shop/edge/8080":                 {set, route},
	} {
		if got := buildRoutes(b, name).objects; !slices.Equal(got, want) {
			t.Errorf("route table %s comes from %v, want %v", name, got, want)
		}
	}
}

// TestConnectionsOfListenerSets: however many ports a tenant opens, they have no more connections together than those that the Gateway has.
func TestConnectionsOfListenerSets(t *testing.T) {
	w := newWorld(t, Config{})
	goldenListenerSets(w)
	gw, _ := w.st.Gateways.Get(w.st.Snapshot(), "shop/edge")
	g := *gw
	g.Ports = slices.Clone(gw.Ports)
	for i := range 9 {
		p := gw.Ports[1]
		p.Port = uint16(9000 + i)
		g.Ports = append(g.Ports, p)
	}
	put(w, w.st.Gateways, &g)
	m, ok := w.server.Build(TypeRuntime, model.RuntimeLimits)
	if !ok {
		t.Fatal("there are no limits")
	}
	const most = gatewayFactor * defaultConnections
	for name, want := range map[string]float64{"gateway/shop/edge/443": most / 2, "gateway/shop/edge/8080": most / 20, "gateway/shop/edge/9000": most / 20} {
		if got := m.(*runtimev3.Runtime).GetLayer().GetFields()["envoy.resource_limits.listener."+name+".connection_limit"].GetNumberValue(); got != want {
			t.Errorf("%s has %v connections, want %v", name, got, want)
		}
	}
}
