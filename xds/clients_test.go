package xds

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// TestClientCertificates: a listener serves clients whose certificate an authority of its port has signed, and with fallback
// all. A change of the authorities is for new connections, and ends none.
func TestClientCertificates(t *testing.T) {
	w := newWorld(t, Config{})
	backend(t, w, "web")
	greeter(t, w, "bytes", nil)
	clients, others := newTestCA(t), newTestCA(t)
	chain, key := w.ca.issue("", "of.gateway")
	put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: "cert", ChainPEM: chain, KeyPEM: key})
	strict, open := freePort(t), freePort(t)
	stream := streamRef("TLSRoute", "r")
	putStream(w, stream, to("bytes", 1))
	gateway := func(ca []byte) {
		g := &model.Gateway{Namespace: "shop", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
		for _, port := range []uint16{strict, open} {
			table := model.GatewayTable("shop", "gw", port, "https")
			put(w, w.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{
				Route: model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: "r"}, Backends: []model.Backend{to("web", 1)},
			}}}}})
			val := &model.ClientValidation{CA: string(ca), Fallback: port == open}
			g.Ports = append(g.Ports, model.GatewayPort{Port: port, TLS: true, Listeners: []model.GatewayListener{
				{Name: "https", RouteTable: table, Certificates: []string{"shop/cert"}, Clients: val},
				{Name: "end", Certificates: []string{"shop/cert"}, Clients: val, Streams: []model.GatewayStream{{Hostname: "bytes.example", Route: stream}}},
			}})
		}
		put(w, w.st.Gateways, g)
	}
	gateway(clients.pem())
	w.envoy()
	dial := func(port uint16, sni string, by *testCA) (*tls.Conn, error) {
		cfg := &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
		if by != nil {
			cert := by.issueNames("client.example")
			// Shown even if the listener names other authorities.
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		}
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", fmt.Sprint("127.0.0.1:", port), cfg)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		}
		return c, err
	}
	ask := func(c *tls.Conn) error {
		if _, err := fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && r.StatusCode != 200 {
			err = fmt.Errorf("status %d", r.StatusCode)
		}
		return err
	}
	try := func(port uint16, sni string, by *testCA) error {
		c, err := dial(port, sni, by)
		if err != nil {
			return err
		}
		if sni == "bytes.example" {
			_, err = greeting(c)
			return err
		}
		return ask(c)
	}
	for _, sni := range []string{"x.example", "bytes.example"} {
		until(t, sni+" with a certificate", func() error { return try(strict, sni, clients) })
		for name, by := range map[string]*testCA{"without a certificate": nil, "with another authority's": others} {
			if try(strict, sni, by) == nil {
				t.Errorf("%s %s is served", sni, name)
			}
			until(t, sni+" with fallback, "+name, func() error { return try(open, sni, by) })
		}
		until(t, sni+" with fallback", func() error { return try(open, sni, clients) })
	}
	kept, err := dial(strict, "x.example", clients)
	if err != nil {
		t.Fatal(err)
	}
	gateway(others.pem())
	until(t, "the other authority", func() error { return try(strict, "x.example", others) })
	if try(strict, "x.example", clients) == nil {
		t.Error("the first authority still counts")
	}
	if err := ask(kept); err != nil {
		t.Errorf("a connection from before: %v", err)
	}
	w.noRejections()
}
