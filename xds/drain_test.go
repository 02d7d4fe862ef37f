package xds

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// A Gateway's listener changes, as a whole or in its filter chain only. Clients that keep connections are asked to connect
// again before Envoy ends what the old one serves, so no request fails.
func TestClientsAreToldOfAListenersEnd(t *testing.T) {
	for name, change := range map[string]func(g *model.Gateway, other string){
		"an address is added": func(g *model.Gateway, _ string) {
			g.Addresses = append(g.Addresses, netip.MustParseAddr("127.0.0.2"))
		},
		"a filter chain changes": func(g *model.Gateway, other string) {
			g.Ports = []model.GatewayPort{{Port: g.Ports[0].Port, Listeners: []model.GatewayListener{{Name: "http", RouteTable: other}}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			backend(t, w, "v1")
			port := freePort(t)
			rule := model.Rule{Backends: []model.Backend{to("v1", 1)}}
			gatewayWith(w, port, rule)
			other := model.GatewayTable("shop", "gw", port, "other")
			put(w, w.st.RouteTables, &model.RouteTable{Name: other, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{rule}}}})
			e := w.envoy()
			e.until("listener", func() error { _, err := trySend(port, "GET", "x", "/", nil); return err })
			dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
			}
			h1, h2 := &politeClient{dial: dial}, newKeptClient(t, dial, true)
			requests := func(d time.Duration) {
				t.Helper()
				for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
					if err := h1.request(); err != nil {
						t.Fatalf("HTTP/1: %v", err)
					}
					if err := h2.request("/"); err != nil {
						t.Fatalf("HTTP/2: %v", err)
					}
				}
			}
			requests(200 * time.Millisecond)
			g, _ := w.st.Gateways.Get(w.st.Snapshot(), "shop/gw")
			changed := *g
			change(&changed, other)
			put(w, w.st.Gateways, &changed)
			requests(2 * time.Second)
			if h1.dialed != 2 || h2.dialed.Load() != 2 {
				t.Errorf("HTTP/1 took %d connections and HTTP/2 %d, want 2", h1.dialed, h2.dialed.Load())
			}
			h1.close()
			w.noRejections()
		})
	}
}

// politeClient sends requests that it never repeats over one HTTP/1.1 connection until an answer says that it ends.
type politeClient struct {
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	conn   net.Conn
	in     *bufio.Reader
	dialed int
}

func (c *politeClient) request() error {
	if c.conn == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn, err := c.dial(ctx, "tcp", "")
		if err != nil {
			return err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
		c.dialed++
	}
	_ = c.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(c.conn, strings.NewReader("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")); err != nil {
		return err
	}
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil || r.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %w", r.StatusCode, err)
	}
	if r.Close {
		c.close()
	}
	return nil
}

func (c *politeClient) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
