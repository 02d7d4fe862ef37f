package xds

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// A cluster that is replaced gets its endpoints again and takes over.
func TestClusterIsReplaced(t *testing.T) {
	w := newWorld(t, Config{})
	backend(t, w, "v1")
	port := freePort(t)
	gatewayWith(w, port, model.Rule{Backends: []model.Backend{to("v1", 1)}})
	e := w.envoy()
	want := func(proto string) {
		t.Helper()
		e.until(proto, func() error {
			a, err := trySend(port, "GET", "x", "/", nil)
			if err == nil && !strings.Contains(a.body, proto) {
				err = fmt.Errorf("%d %s", a.status, a.body)
			}
			return err
		})
	}
	want("HTTP/1.1")
	s, _ := w.st.Services.Get(w.st.Snapshot(), "shop/v1")
	h2 := *s
	h2.Ports = []model.ServicePort{{Port: 80, Protocol: model.TCP, AppProtocol: "kubernetes.io/h2c"}}
	put(w, w.st.Services, &h2)
	want("HTTP/2.0")
	h2c := h2
	h2c.Affinity = time.Hour
	put(w, w.st.Services, &h2c)
	e.until("the cluster is replaced", func() error {
		out, err := e.get("/config_dump?resource=dynamic_active_clusters")
		if err == nil && !strings.Contains(out, "MAGLEV") {
			err = fmt.Errorf("no MAGLEV: %s", out)
		}
		return err
	})
	want("HTTP/2.0")
	w.noRejections()
}

// Endpoints and weights change under load, and no request fails. A cold cluster costs none either.
func TestChangesFailNoRequest(t *testing.T) {
	w := newWorld(t, Config{})
	backend(t, w, "v1")
	backend(t, w, "v2")
	v1, _ := w.st.Endpoints.Get(w.st.Snapshot(), "shop/v1/80")
	v2, _ := w.st.Endpoints.Get(w.st.Snapshot(), "shop/v2/80")
	port := freePort(t)
	gatewayWith(w, port, model.Rule{Backends: []model.Backend{to("v1", 1)}})
	e := w.envoy()
	e.until("listener", func() error {
		a, err := trySend(port, "GET", "x", "/", nil)
		if err == nil && a.status != 200 {
			err = fmt.Errorf("%d", a.status)
		}
		return err
	})
	ctx, cancel := context.WithCancel(t.Context())
	var sent, failed atomic.Int64
	done := make(chan string, 4)
	for i := range 4 {
		go func() {
			first := ""
			c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
			}}, Timeout: 10 * time.Second}
			defer c.CloseIdleConnections()
			for ctx.Err() == nil {
				method := []string{"GET", "POST"}[i%2]
				req, _ := http.NewRequest(method, "http://x/", strings.NewReader("body"))
				sent.Add(1)
				r, err := c.Do(req)
				if err != nil || r.StatusCode != 200 {
					failed.Add(1)
					first = fmt.Sprint(err, r)
				}
				if err == nil {
					_ = r.Body.Close()
				}
			}
			done <- first
		}()
	}
	for i := range 30 {
		switch i % 3 {
		case 0: // the service moves to the other pod, whose address refuses nothing
			moved := *v1
			moved.Backends = v2.Backends
			put(w, w.st.Endpoints, &moved)
		case 1:
			put(w, w.st.Endpoints, v1)
		case 2: // a cluster that this Envoy has not seen
			name := fmt.Sprint("cold", i)
			put(w, w.st.Services, &model.Service{Namespace: "shop", Name: name, Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
			put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/" + name, Port: 80, Protocol: model.TCP, Backends: v2.Backends})
			gatewayWith(w, port, model.Rule{Backends: []model.Backend{to("v1", 1), to(name, 1)}})
		}
		time.Sleep(30 * time.Millisecond) // the load's share of the time, not a condition
	}
	cancel()
	for range 4 {
		if first := <-done; first != "" {
			t.Errorf("a request failed: %s", first)
		}
	}
	t.Logf("%d requests, %d failed", sent.Load(), failed.Load())
	if sent.Load() == 0 {
		t.Error("no request was sent")
	}
	w.noRejections()
}

// Envoy refuses one resource of several: the others are in place.
func TestEnvoyRefusesOne(t *testing.T) {
	w := newWorld(t, Config{})
	backend(t, w, "v1")
	port := freePort(t)
	gatewayWith(w, port, model.Rule{Backends: []model.Backend{to("v1", 1)}})
	g, _ := w.st.Gateways.Get(w.st.Snapshot(), "shop/gw")
	for i := range 3 {
		name := fmt.Sprint("g", i)
		other := *g
		other.Name = name
		p := freePort(t)
		chain, key := w.ca.issue("", "x")
		if i == 1 {
			_, key = w.ca.issue("", "y") // another certificate's key
		}
		put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: name, ChainPEM: chain, KeyPEM: key})
		table := model.GatewayTable("shop", name, p, "l")
		put(w, w.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{Status: 200}}}}})
		other.Ports = []model.GatewayPort{{Port: p, TLS: true, Listeners: []model.GatewayListener{{Name: "l", RouteTable: table, Certificates: []string{"shop/" + name}}}}}
		put(w, w.st.Gateways, &other)
	}
	// An expression that Go's and Envoy's RE2 both compile, but whose program is larger than Envoy takes.
	big := model.Rule{Route: model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: "big"}, Match: path(model.MatchRegex, strings.Repeat("((a{100}){3}b?){3}", 30)), Status: 200}
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: "big"})
	bigPort := freePort(t)
	table := model.GatewayTable("shop", "big", bigPort, "")
	put(w, w.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{big}}}})
	bigGateway := *g
	bigGateway.Name = "big"
	bigGateway.Ports = []model.GatewayPort{{Port: bigPort, Listeners: []model.GatewayListener{{Name: "l", RouteTable: table}}}}
	put(w, w.st.Gateways, &bigGateway)
	e := w.envoy()
	e.until("the good ones are in place, the bad ones reported", func() error {
		for _, n := range []string{"cert|shop/g0", "cert|shop/g2"} {
			if !w.accepted(TypeSecret, n) {
				return fmt.Errorf("%s is not accepted", n)
			}
		}
		if !w.accepted(TypeRoute, model.GatewayTable("shop", "gw", port, "")+plainSuffix) {
			return fmt.Errorf("the good table is not accepted")
		}
		got := w.rejections()
		if len(got) != 2 || got[1] != "Secret/cert|shop/g1" || got[0] != "RouteConfiguration/"+table+plainSuffix+" for HTTPRoute/shop/big" {
			return fmt.Errorf("rejections: %v", got)
		}
		return nil
	})
	for r := range w.st.Rejections.All(w.st.Snapshot()) {
		if strings.Contains(r.Message, "PRIVATE") {
			t.Error("a message holds a key")
		}
		t.Log(r.Resource, r.Objects, r.Message)
	}
}
