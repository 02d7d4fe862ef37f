package xds

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// Copies go out as the caller's own requests do: in its namespace, with its certificate. Nobody can say to be another.
func TestMirrorIsTheCallers(t *testing.T) {
	for _, test := range []struct {
		name   string
		caller model.MTLSMode
		copies model.MTLSMode // of the backend that gets them
	}{
		{"over HBONE", model.MTLSStrict, model.MTLSStrict},
		{"in the clear", model.MTLSDisabled, model.MTLSPermissive},
	} {
		t.Run(test.name, func(t *testing.T) {
			pods := labPods(t, "a", "b", "c")
			w := newWorld(t, Config{})
			a, b := workload(pods[0], "shop", test.caller, nil), workload(pods[1], "shop", model.MTLSDisabled, nil)
			var policy *model.Policy
			if test.caller == model.MTLSStrict {
				policy = &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{{Sources: []model.PolicySource{{Identity: a.Identity}}}}}
			}
			c := workload(pods[2], "shop", test.copies, policy)
			put(w, w.st.Workloads, a, b, c)
			put(w, w.st.SVIDs, w.ca.svid(c.Identity))
			if a.Identity != "" {
				put(w, w.st.SVIDs, w.ca.svid(a.Identity))
			}
			echo(t, pods[1], 8080, "b")
			seen := record(t, pods[2], 8080)
			loopbackService(w, "echo", endpointOf(b, 0, 8080))
			put(w, w.st.Services, &model.Service{Namespace: "shop", Name: "copies", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
			put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/copies", Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{endpointOf(c, 0, 8080)}})
			put(w, w.st.RouteTables, &model.RouteTable{Name: model.ServiceTable("shop", "echo", PortHTTP), VirtualHosts: []model.VirtualHost{{
				Hosts: []string{"*"}, Rules: []model.Rule{{
					Backends: []model.Backend{{Namespace: "shop", Name: "echo", Port: PortHTTP, Weight: 1}},
					Mirrors:  []model.Mirror{{Backend: to("copies", 1), Numerator: 100, Denominator: 100}},
				}},
			}}})
			w.envoy()
			const n = 8
			for i := range n {
				host := "echo.shop\r\nX-Weft-Mirror: none\r\nX-Weft-Mirror-Identity: spiffe://x\r\nX-Weft-Mirror-Netns: /run/netns/x"
				status, body, err := ask(pods[0], "127.0.0.1:15001", host, fmt.Sprintf("/%d?q=1", i))
				if err != nil || status != 200 || !strings.HasPrefix(body, "b GET ") {
					t.Fatal(status, body, err)
				}
			}
			until(t, "all copies", func() error {
				if got := seen(); len(got) != n {
					return fmt.Errorf("%d of %d: %v", len(got), n, got)
				}
				return nil
			})
			for _, r := range seen() {
				if from, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || from.Addr() != pods[0].Address {
					t.Errorf("a copy came from %s, want %s", r.RemoteAddr, pods[0].Address)
				}
				if r.Host != "echo.shop" || r.URL.RawQuery != "q=1" {
					t.Errorf("%s%s is not what the client sent", r.Host, r.URL)
				}
				for h := range r.Header {
					if h := strings.ToLower(h); h != passedHeader && strings.HasPrefix(h, "x-weft") || strings.HasPrefix(h, "x-envoy") {
						t.Errorf("the backend sees %s: %s", h, r.Header.Get(h))
					}
				}
			}
			w.noRejections()
		})
	}
}

// record answers HTTP requests in a pod; the function gives those that came.
func record(t *testing.T, p *lab.Pod, port uint16) func() []*http.Request {
	t.Helper()
	l := listenIn(t, p, netip.AddrPortFrom(p.Address, port))
	var mu sync.Mutex
	var seen []*http.Request
	s := &http.Server{ReadHeaderTimeout: time.Minute, Protocols: bothProtocols(), Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return func() []*http.Request {
		mu.Lock()
		defer mu.Unlock()
		return append([]*http.Request(nil), seen...)
	}
}
