package relay

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
)

// serveMap serves the map's page, and returns what asks it.
func (c *cluster) serveMap() func(token, path string, into any) (status int, text string) {
	c.t.Helper()
	certificate := c.certificate
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- c.server.ServeMap(ctx, l, &tls.Config{ // as the controllers' own
			Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
		})
	}()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	client := &http.Client{Transport: &http.Transport{ // as browsers
		TLSClientConfig: &tls.Config{RootCAs: c.roots}, DisableKeepAlives: true, ForceAttemptHTTP2: true,
	}}
	return func(token, path string, into any) (int, string) {
		c.t.Helper()
		req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "https://"+l.Addr().String()+path, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := client.Do(req)
		if err != nil {
			c.t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			c.t.Fatal(err)
		}
		if res.StatusCode == http.StatusOK && into != nil {
			if err := json.Unmarshal(body, into); err != nil {
				c.t.Fatalf("%s: %v", body, err)
			}
		}
		return res.StatusCode, strings.TrimSpace(string(body))
	}
}

// counted adds flows to what an agent keeps, and counts them as connections.
func (a *agent) counted(flows ...observe.Flow) {
	for _, f := range flows {
		a.connections.Opened(&f)
		a.connections.Ended(&f)
		a.flows.Add(f)
	}
}

func edges(g *servicemap.Graph) string {
	var out []string
	for _, e := range g.Edges {
		out = append(out, e.ID+" "+e.MTLS)
	}
	return strings.Join(out, "\n")
}

// TestMap: each reader sees the edges, and the flows of them, that touch the namespaces whose flows he may list.
func TestMap(t *testing.T) {
	c := newCluster(t, Times{})
	a, b := c.agent("a"), c.agent("b")
	c.mu.Lock()
	c.expected = append(c.expected, "gone")
	c.mu.Unlock()
	a.counted(flow(1, "store/web-1", 200), within(2))
	b.counted(flow(3, "store/web-1", 503))
	get := c.serveMap()

	const shop, bank = "shop/Deployment/app>store/Pod/web-1 all", "bank//>bank/Service/vault none"
	for token, want := range map[string]string{"admin": bank + "\n" + shop, "shop": shop} {
		var g servicemap.Graph
		if status, text := get(token, "/v1/map", &g); status != http.StatusOK || edges(&g) != want || strings.Join(g.Missing, " ") != "gone" {
			t.Errorf("%s: %d %s: %s", token, status, text, edges(&g))
		}
	}
	for _, tc := range []struct {
		token  string
		status int
		want   string
	}{{"x", 401, "the token is not one"}, {"", 401, "no token"}, {strings.Repeat("x", maxToken+1), 401, "no token"}, {"nobody", 403, "user-nobody may list flows.weft.io in no namespace"}} {
		if status, text := get(tc.token, "/v1/map", nil); status != tc.status || !strings.Contains(text, tc.want) {
			t.Errorf("%.10s: %d %s", tc.token, status, text)
		}
	}

	ofShop := servicemap.Pair{From: servicemap.End{Namespace: "shop", Kind: "Deployment", Name: "app"}, To: servicemap.End{Namespace: "store", Kind: "Pod", Name: "web-1"}}
	ofBank := servicemap.Pair{From: servicemap.End{Namespace: "bank"}, To: servicemap.End{Namespace: "bank", Kind: "Service", Name: "vault"}}
	for _, tc := range []struct {
		token  string
		pair   servicemap.Pair
		status int
		want   string
	}{
		{"admin", ofShop, 200, "/3 503, /1 200"}, {"shop", ofShop, 200, "/3 503, /1 200"}, {"admin", ofBank, 200, "/2 200"},
		{"shop", ofBank, 403, ""}, {"x", ofShop, 401, ""}, {"shop", servicemap.Pair{}, 403, ""},
	} {
		var flows []observe.Flow
		status, text := get(tc.token, "/v1/map/flows?"+tc.pair.Values().Encode(), &flows)
		var got []string
		for _, f := range flows {
			got = append(got, fmt.Sprint(f.HTTP.Path, " ", f.HTTP.Status))
		}
		if status != tc.status || strings.Join(got, ", ") != tc.want {
			t.Errorf("%s of %+v: %d %s: %s", tc.token, tc.pair, status, text, got)
		}
	}
}

// TestMapIsShared: many readers do not ask nodes more often.
func TestMapIsShared(t *testing.T) {
	c := newCluster(t, Times{})
	c.agent("a")
	first, err := c.server.graph(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for range 100 {
		g, err := c.server.graph(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if g != first && time.Since(begin) < mapAge/2 {
			t.Fatal("the nodes are asked again")
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	c.server.graphs.mu <- struct{}{} // as if nodes were asked
	if _, err := c.server.graph(gone); err == nil {
		t.Error("a reader that goes waits")
	}
	<-c.server.graphs.mu
}
