package xds

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// gatewayOf makes a Gateway with an HTTP port, and HTTPS ports with two listeners each.
func gatewayOf(namespace string, n int, https ...uint16) *model.Gateway {
	g := &model.Gateway{
		Namespace: namespace, Name: fmt.Sprint("g", n), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 9, byte(n + 1)})},
		Ports: []model.GatewayPort{{Port: 80, Listeners: []model.GatewayListener{{Name: "http", RouteTable: model.GatewayTable(namespace, fmt.Sprint("g", n), 80, "")}}}},
	}
	for _, port := range https {
		p := model.GatewayPort{Port: port, TLS: true}
		for i := range 2 {
			p.Listeners = append(p.Listeners, model.GatewayListener{
				Name: fmt.Sprint("l", i), Hostname: fmt.Sprint("h", i, ".example"), Certificates: []string{namespace + "/c"}, RouteTable: "t",
			})
		}
		g.Ports = append(g.Ports, p)
	}
	return g
}

// However many Gateways, ports and listeners namespaces have, they leave half of the node's connections to pods. Namespaces with
// Gateways have equal shares of the other half, whatever each makes of its own.
func TestGatewaysOfANamespaceShareConnections(t *testing.T) {
	w := newWorld(t, Config{})
	total := func(namespace string) (sum uint64, listeners int) {
		m, ok := w.server.Build(TypeRuntime, model.RuntimeLimits)
		if !ok {
			t.Fatal("there are no limits")
		}
		values := m.(*runtimev3.Runtime).GetLayer().GetFields()
		for g := range w.st.Gateways.All(w.st.Snapshot()) {
			for _, name := range gatewayListenerNames(g) {
				v := values["envoy.resource_limits.listener."+name+".connection_limit"]
				if v == nil {
					t.Fatalf("%s has no limit", name)
				}
				if g.Namespace == namespace {
					sum, listeners = sum+uint64(v.GetNumberValue()), listeners+1
				}
			}
		}
		return sum, listeners
	}
	const most = gatewayFactor * defaultConnections
	put(w, w.st.Gateways, gatewayOf("modest", 0))
	if sum, _ := total("modest"); sum != most {
		t.Errorf("one listener has %d connections, want %d", sum, most)
	}
	for n := range 4 {
		put(w, w.st.Gateways, gatewayOf("greedy", n+1, 443, 8443, 9443))
	}
	if sum, listeners := total("greedy"); listeners != 4*4 || sum > most/2 || sum < most/2-16 {
		t.Errorf("%d listeners have %d connections, want %d", listeners, sum, most/2)
	}
	if sum, _ := total("modest"); sum != most/2 {
		t.Errorf("the other namespace has %d connections, want %d", sum, most/2)
	}
	for n := range 9 {
		put(w, w.st.Gateways, gatewayOf(fmt.Sprint("more", n), n+10, 443))
	}
	all := uint64(0)
	for g := range w.st.Gateways.All(w.st.Snapshot()) {
		if g.Name == "g1" || g.Namespace != "greedy" {
			sum, _ := total(g.Namespace)
			all += sum
		}
	}
	if all > most || all < most-100 {
		t.Errorf("the Gateways of eleven namespaces have %d connections together, want %d", all, most)
	}
}

// TestDetectionCountsFromTheStart: connections whose first bytes have not come are as few as others of a pod. Without a limit
// of their own they take those of all the node's pods.
func TestDetectionCountsFromTheStart(t *testing.T) {
	const most = 4
	patient := defaultTimeouts
	patient.firstBytes = time.Minute
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{ConnectionsPerListener: most, testTimeouts: &patient})
	a, b := workload(pods[0], "shop", model.MTLSDisabled, nil), workload(pods[1], "shop", model.MTLSDisabled, nil)
	put(w, w.st.Workloads, a, b)
	echo(t, pods[1], 8080, "b")
	detected(t, w, pods[0], "web", detectWeb, endpointOf(b, 0, 8080))
	w.envoy()
	until(t, "an answer", func() error {
		status, body, err := ask(pods[0], detectWeb, "web", "/")
		if status == 0 || err != nil {
			return fmt.Errorf("%d %s %w", status, body, err)
		}
		return nil
	})
	held := 0
	for n := range 4 * most {
		c := dialPod(t, pods[0], detectWeb)
		if n%2 == 0 {
			_, _ = io.WriteString(c, "GET /")
		}
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			held++
		}
	}
	if held < most-1 || held > most {
		t.Errorf("%d connections are held, want %d", held, most)
	}
}

// Connections on which nothing comes count as well, whatever the listener waits for.
func TestGatewayConnectionsCountFromTheStart(t *testing.T) {
	const most = 4 // and twenty for all Gateways
	m := newServedWith(t, Config{ConnectionsPerListener: most})
	put(m.world, m.st.RouteTables, &model.RouteTable{Name: model.GatewayTable("other", "g1", 80, "")})
	put(m.world, m.st.Gateways, gatewayOf("other", 1))
	for way, limit := range map[string]int{"a Gateway's HTTP port": most * gatewayFactor / 4, "a Gateway's port, no TLS": most * gatewayFactor / 4} {
		t.Run(way, func(t *testing.T) {
			held := 0
			for range 3 * limit {
				c := m.ways[way](t)
				_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
					held++
				}
			}
			if held < limit-1 || held > limit {
				t.Errorf("%d connections are held, want %d", held, limit)
			}
		})
	}
	until(t, "another namespace's Gateway answers", func() error {
		c, err := net.Dial("tcp", "127.0.9.2:80")
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if answer, err := io.ReadAll(c); err != nil || len(answer) == 0 {
			return fmt.Errorf("answer %q: %w", answer, err)
		}
		return nil
	})
}
