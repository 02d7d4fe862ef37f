package xds

import (
	"fmt"
	"net/netip"
	"testing"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	limit "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// TestGatewaysOfANamespaceShareConnections: however many Gateways, ports and listeners a namespace has, they leave half of
// the node's connections to others. Its neighbour's share does not change with that.
func TestGatewaysOfANamespaceShareConnections(t *testing.T) {
	gateway := func(namespace string, n, listeners int) *model.Gateway {
		g := &model.Gateway{
			Namespace: namespace, Name: fmt.Sprint("g", n), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(n + 1)})},
			Ports: []model.GatewayPort{{Port: 80, Listeners: []model.GatewayListener{{Name: "http", RouteTable: "t"}}}},
		}
		https := model.GatewayPort{Port: 443, TLS: true}
		for i := range listeners {
			https.Listeners = append(https.Listeners, model.GatewayListener{
				Name: fmt.Sprint("l", i), Hostname: fmt.Sprint("h", i, ".example"), Certificates: []string{namespace + "/c"}, RouteTable: "t",
			})
		}
		g.Ports = append(g.Ports, https)
		return g
	}
	w := newWorld(t, Config{})
	total := func(namespace string) (sum uint64, chains int) {
		for g := range w.st.Gateways.All(w.st.Snapshot()) {
			if g.Namespace != namespace {
				continue
			}
			for _, name := range gatewayListenerNames(g) {
				m, ok := w.server.Build(TypeListener, name)
				if !ok {
					t.Fatalf("no listener %s", name)
				}
				for _, c := range m.(*listener.Listener).GetFilterChains() {
					var l limit.ConnectionLimit
					if err := c.GetFilters()[0].GetTypedConfig().UnmarshalTo(&l); err != nil {
						t.Fatal(err)
					}
					sum, chains = sum+l.GetMaxConnections().GetValue(), chains+1
				}
			}
		}
		return sum, chains
	}
	const most = gatewayFactor * defaultConnections
	put(w, w.st.Gateways, gateway("modest", 0, 0))
	if sum, _ := total("modest"); sum != most {
		t.Errorf("one listener has %d connections, want %d", sum, most)
	}
	for n := range 4 {
		put(w, w.st.Gateways, gateway("greedy", n+1, 63))
	}
	if sum, chains := total("greedy"); chains != 4*64 || sum > most || sum < most/2 {
		t.Errorf("%d filter chains have %d connections, want at most %d", chains, sum, most)
	}
	if sum, _ := total("modest"); sum != most {
		t.Errorf("the other namespace has %d connections, want %d", sum, most)
	}
}
