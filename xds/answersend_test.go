package xds

import (
	"bufio"
	"bytes"
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
	l, err := p.Listen("tcp", netip.AddrPortFrom(p.Address, port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
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

// TestAnswersEndWhole: an answer without a length, which ends with its connection, arrives whole by mTLS.
func TestAnswersEndWhole(t *testing.T) {
	m := newServed(t, timeouts{handshake: time.Minute, headers: time.Minute, agent: time.Minute, idle: time.Minute, idleTunnels: time.Minute, idleClients: time.Minute})
	gw := identity("shop", "gw")
	put(m.world, m.st.SVIDs, m.ca.svid(gw))
	answersAndEnds(t, m.b, 9000)
	put(m.world, m.st.Services, &model.Service{Namespace: "shop", Name: "db", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true}}})
	put(m.world, m.st.Endpoints, &model.Endpoints{Service: "shop/db", Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{endpointOf(m.wb, 0, 9000)}})
	port := freePort(t)
	table := model.GatewayTable("shop", "ends", port, "")
	put(m.world, m.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{
		{Backends: []model.Backend{to("db", 1)}},
	}}}})
	put(m.world, m.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "ends", Identity: gw, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: []model.GatewayPort{{Port: port, Listeners: []model.GatewayListener{{Name: "http", RouteTable: table}}}},
	})
	ask := func(n int) error {
		c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := c.Get(fmt.Sprintf("http://%s/%d", net.JoinHostPort("127.0.0.1", fmt.Sprint(port)), n))
		if err != nil {
			return err
		}
		defer r.Body.Close()
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
	for _, n := range []int{1, 184, 100_000, 5_000_000} {
		for range 10 {
			if err := ask(n); err != nil {
				t.Error(err)
			}
		}
	}
	m.noRejections()
}
