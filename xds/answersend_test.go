package xds

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// answersAndEnds serves HTTP on a pod's port: an answer whose length is the request's path, which ends with the connection.
func answersAndEnds(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	l := listenIn(t, p, netip.AddrPortFrom(p.Address, port))
	go serveEach(l, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		var n int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &n)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
		_, _ = c.Write(bytes.Repeat([]byte("x"), n))
	})
}

// TestAnswersEndWhole: an answer without a length, which ends with its connection, arrives whole by mTLS, though the client lags.
// By HBONE it does up to the window of a stream.
func TestAnswersEndWhole(t *testing.T) {
	for _, test := range []struct {
		name   string
		tunnel bool
		sizes  []int
	}{
		{"weft tunnel", true, []int{1, 184, 100_000, 5_000_000, 64 << 20}},
		{"HBONE", false, []int{1, 184, 100_000, 5_000_000}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newServedWith(t, Config{Tunnel: test.tunnel, GatewayNetNS: hostNetNS(t)})
			gw := identity("shop", "gw")
			put(m.world, m.st.SVIDs, m.ca.svid(gw))
			answersAndEnds(t, m.b, 9000)
			loopbackService(m.world, "app", endpointOf(m.wb, 0, 9000))
			if test.tunnel {
				startedTunnel(t, m.world)
			}
			port := freePort(t)
			table := model.GatewayTable("shop", "ends", port, "")
			put(m.world, m.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{
				{Backends: []model.Backend{{Namespace: "shop", Name: "app", Port: PortHTTP, Weight: 1}}},
			}}}})
			put(m.world, m.st.Gateways, &model.Gateway{
				Namespace: "shop", Name: "ends", Identity: gw, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
				Ports: []model.GatewayPort{{Port: port, Listeners: []model.GatewayListener{{Name: "http", RouteTable: table}}}},
			})
			clients := map[string]func(context.Context) (net.Conn, error){
				"Gateway": func(ctx context.Context) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprint("127.0.0.1:", port))
				},
				"pod": func(ctx context.Context) (net.Conn, error) { return m.a.Dial(ctx, "tcp", "127.0.0.1:15001") },
			}
			for name, dial := range clients {
				t.Run(name, func(t *testing.T) { answersWhole(t, dial, test.sizes) })
			}
			m.noRejections()
		})
	}
}

func answersWhole(t *testing.T, dial func(context.Context) (net.Conn, error), sizes []int) {
	ask := func(n int) error {
		c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		}}
		r, err := c.Get(fmt.Sprint("http://app/", n))
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if n > 16<<20 {
			time.Sleep(time.Second)
		}
		got, err := io.Copy(io.Discard, r.Body)
		if err == nil && got != int64(n) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil || r.StatusCode != 200 {
			return fmt.Errorf("%d, %d of %d bytes: %w", r.StatusCode, got, n, err)
		}
		return nil
	}
	until(t, "an answer", func() error { return ask(1) })
	for _, n := range sizes {
		for range 5 {
			if err := ask(n); err != nil {
				t.Error(err)
			}
		}
	}
}
