package xds

import (
	"testing"

	"github.com/weft-mesh/weft/internal/model"
)

// TestOddHosts: a Gateway takes no Host in which a port is no port, or that has a user. Applications read such a Host in other ways
// than Envoy, which finds the route by what is before the colon.
func TestOddHosts(t *testing.T) {
	w := newWorld(t, Config{})
	backend(t, w, "web")
	port := freePort(t)
	gatewayWith(w, port, model.Rule{Backends: []model.Backend{to("web", 1)}})
	table := model.GatewayTable("shop", "gw", port, "")
	all, _ := w.st.RouteTables.Get(w.st.Snapshot(), table)
	one := all.VirtualHosts[0]
	one.Hosts = []string{"shop.example"}
	put(w, w.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{one, all.VirtualHosts[0]}})
	w.envoy()
	until(t, "the Gateway", func() error { _, err := trySend(port, "GET", "shop.example", "/", nil); return err })
	for host, status := range map[string]int{
		"shop.example": 200, "SHOP.example:80": 200, "shop.example.:8080": 200, "shop.example:": 200, "other.example": 200,
		"[::1]": 200, "[fd98::1]:80": 200, "192.0.2.1:80": 200, "a_b-c.example": 200,
		"shop.example:80@evil.example": 400, "shop.example:abc": 400, "shop.example:80x": 400, "user@shop.example": 400,
		"user:pass@shop.example": 400, "shop.example:80:80": 400, "[::1]x": 400, "[::1]:x": 400, "[::1]@evil.example": 400,
	} {
		if a := send(t, port, "GET", host, "/", nil); a.status != status {
			t.Errorf("Host: %s is answered %d, want %d: %s", host, a.status, status, a.body)
		}
	}
	w.noRejections()
}
