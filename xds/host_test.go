package xds

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weft-mesh/weft/internal/model"
)

// TestOddHosts: a Gateway takes no Host in which a port is no port, or that has a user. Applications read such a Host in other ways
// than Envoy, which finds the route by what is before the colon.
func TestOddHosts(t *testing.T) {
	w := newWorld(t, Config{RequestLog: true})
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
		} else if status == 400 && a.body != "" {
			t.Errorf("Host: %s is answered with the body %q", host, a.body)
		}
	}
	// Clients of gRPC have a status in its own terms: 400 is INTERNAL (gRPC, HTTP to gRPC status code mapping).
	grpc := send(t, port, "POST", "shop.example:abc", "/a.B/C", map[string]string{"content-type": "application/grpc"})
	if grpc.status != 200 || grpc.header.Get("grpc-status") != "13" || grpc.header.Get("grpc-message") != "" || grpc.body != "" {
		t.Errorf("gRPC is answered %d, %v, %q", grpc.status, grpc.header, grpc.body)
	}
	w.noRejections()
	until(t, "the flow of a refused request", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, f := range w.flows {
			if f.Request != nil && f.Request.Authority == "[::1]@evil.example" {
				if f.Request.Status != 400 || f.Failure != "malformed_host" {
					t.Errorf("status %d, failure %q", f.Request.Status, f.Failure)
				}
				return nil
			}
		}
		return errors.New("not logged yet")
	})
}

// TestOddHostsCostNothingForEachHost: Envoy compiles an expression for each place where it stands. Ten times as many hostnames
// must not be ten times as many expressions.
func TestOddHostsCostNothingForEachHost(t *testing.T) {
	w := newWorld(t, Config{})
	port := uint16(8080)
	gatewayWith(w, port, model.Rule{Backends: []model.Backend{to("web", 1)}})
	table := model.GatewayTable("shop", "gw", port, "")
	all, _ := w.st.RouteTables.Get(w.st.Snapshot(), table)
	many := &model.RouteTable{Name: table}
	for i := range 100 {
		host := all.VirtualHosts[0]
		host.Hosts = []string{fmt.Sprintf("shop-%d.example", i)}
		many.VirtualHosts = append(many.VirtualHosts, host)
	}
	put(w, w.st.RouteTables, many)
	b := &builder{st: w.st, snap: w.st.Snapshot(), cfg: &w.server.cfg}
	out := buildRoutes(b, table).message.(*routev3.RouteConfiguration)
	if len(out.VirtualHosts) != 100 {
		t.Fatalf("%d virtual hosts", len(out.VirtualHosts))
	}
	if n := strings.Count(protojson.Format(out), `":authority"`); n > 0 {
		t.Errorf("%d expressions that look at the Host, for 100 hostnames", n)
	}
}
