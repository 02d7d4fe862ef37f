package xds

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

func streamRef(kind, name string) model.ObjectRef {
	return model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: kind, Namespace: "shop", Name: name}
}

// greeter is a service with one endpoint on the loopback that speaks first: it says its name, and then returns each line.
// With cfg it speaks TLS.
func greeter(t *testing.T, w *world, name string, cfg *tls.Config) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: name, Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/" + name, Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{
		{Address: netip.MustParseAddrPort(l.Addr().String())},
	}})
	if cfg != nil {
		l = tls.NewListener(l, cfg)
	}
	go serveEach(l, func(c net.Conn) {
		fmt.Fprintln(c, name)
		_, _ = io.Copy(c, c)
	})
}

// greeting returns who answers a connection, the first line that is read.
func greeting(c net.Conn) (string, error) {
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

func putGateway(w *world, port model.GatewayPort) {
	put(w, w.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Ports: []model.GatewayPort{port},
	})
}

func putStream(w *world, ref model.ObjectRef, backends ...model.Backend) {
	put(w, w.st.StreamRoutes, &model.StreamRoute{Route: ref, Backends: backends})
}

// TestTCPRoute divides connections by weight. A backend that is not there, or has no endpoint, keeps its share, which is
// refused. A change of the backends ends no connection.
func TestTCPRoute(t *testing.T) {
	w := newWorld(t, Config{})
	greeter(t, w, "v1", nil)
	greeter(t, w, "v2", nil)
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: "empty", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
	port, ref := freePort(t), streamRef("TCPRoute", "r")
	putStream(w, ref, to("v1", 3), to("v2", 1))
	putGateway(w, model.GatewayPort{Port: port, Listeners: []model.GatewayListener{{Name: "tcp", Streams: []model.GatewayStream{{Route: ref}}}}})
	w.envoy()
	dial := func() (net.Conn, string, error) {
		c, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", port), 5*time.Second)
		if err != nil {
			return nil, "", err
		}
		t.Cleanup(func() { _ = c.Close() })
		who, err := greeting(c)
		return c, who, err
	}
	var kept net.Conn
	until(t, "an answer", func() (err error) {
		kept, _, err = dial()
		return err
	})
	w.noRejections()

	// The shares of connections, those that are refused too.
	shares := func(n int) map[string]int {
		got := map[string]int{}
		for range n {
			c, who, err := dial()
			if err != nil {
				who = "refused"
				if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
					t.Fatal(err)
				}
			}
			if c != nil {
				_ = c.Close()
			}
			got[who]++
		}
		return got
	}
	if got := shares(400); got["refused"] > 0 || got["v1"] < 240 || got["v1"] > 360 {
		t.Errorf("%v, want 3 to 1", got)
	}
	putStream(w, ref, to("v2", 1), to("empty", 1), model.Backend{Namespace: "shop", Name: "invalid", Invalid: true, Weight: 2})
	until(t, "the new backends", func() error {
		if got := shares(20); got["v1"] > 0 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	if got := shares(400); got["v2"] < 50 || got["v2"] > 160 || got["v1"] > 0 {
		t.Errorf("%v, want a quarter to v2 and the rest refused", got)
	}
	putStream(w, ref)
	until(t, "no backends", func() error {
		if got := shares(5); got["refused"] != 5 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	putStream(w, ref, to("v2", 1))
	until(t, "the route back", func() error {
		if got := shares(1); got["v2"] != 1 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	_ = kept.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(kept, "still here"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(kept).ReadString('\n'); err != nil || line != "still here\n" {
		t.Errorf("a connection from before: %q, %v", line, err)
	}
	w.noRejections()
}

// TestTLSRoute chooses by the name in the handshake: TLS that is passed through, TLS that ends at the Gateway, and requests
// share a port.
func TestTLSRoute(t *testing.T) {
	w := newWorld(t, Config{})
	certificate := func(host string) tls.Certificate {
		chain, key := w.ca.issue("", host)
		c, err := tls.X509KeyPair(chain, key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	greeter(t, w, "inside", &tls.Config{Certificates: []tls.Certificate{certificate("of.backend")}})
	greeter(t, w, "clear", nil)
	backend(t, w, "http")
	chain, key := w.ca.issue("", "of.gateway")
	put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: "cert", ChainPEM: chain, KeyPEM: key})
	port := freePort(t)
	table := model.GatewayTable("shop", "gw", port, "https")
	put(w, w.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{
		Route: model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: "r"}, Backends: []model.Backend{to("http", 1)},
	}}}}})
	pass, end := streamRef("TLSRoute", "pass"), streamRef("TLSRoute", "end")
	putStream(w, pass, to("inside", 1))
	putStream(w, end, to("clear", 1))
	putGateway(w, model.GatewayPort{Port: port, TLS: true, Listeners: []model.GatewayListener{
		{Name: "https", Hostname: "web.example", RouteTable: table, Certificates: []string{"shop/cert"}},
		{Name: "pass", Streams: []model.GatewayStream{{Hostname: "a.pass.example", Route: end}, {Hostname: "*.pass.example", Route: pass}}},
		{Name: "end", Certificates: []string{"shop/cert"}, Streams: []model.GatewayStream{{Hostname: "end.example", Route: end}, {Hostname: "a.pass.example", Route: end}}},
	}})
	w.envoy()
	// dial returns the name in the certificate and the first line.
	dial := func(sni string) (shown, who string, err error) {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{ServerName: sni, InsecureSkipVerify: true}}
		c, err := d.DialContext(t.Context(), "tcp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			return "", "", err
		}
		defer c.Close()
		shown = c.(*tls.Conn).ConnectionState().PeerCertificates[0].DNSNames[0]
		if sni == "web.example" {
			fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", sni)
		}
		who, err = greeting(c)
		return shown, who, err
	}
	for sni, want := range map[string][2]string{
		"b.pass.example": {"of.backend", "inside"}, "end.example": {"of.gateway", "clear"}, "web.example": {"of.gateway", "HTTP/1.1 200 OK"},
	} {
		until(t, sni, func() error {
			shown, who, err := dial(sni)
			if err == nil && (shown != want[0] || who != want[1]) {
				err = fmt.Errorf("%s shows a certificate of %s, and %q answers", sni, shown, who)
			}
			return err
		})
	}
	for _, sni := range []string{"other.example", "pass.example", "a.end.example"} {
		if shown, who, err := dial(sni); err == nil {
			t.Errorf("%s, which no listener has, shows a certificate of %s, and %q answers", sni, shown, who)
		}
	}
	w.noRejections()
}

// TestStreamsWithMTLS: a Gateway proves who it is to backends with an identity.
func TestStreamsWithMTLS(t *testing.T) {
	w := newWorld(t, Config{})
	gw, db := identity("shop", "gw"), identity("shop", "db")
	put(w, w.st.SVIDs, w.ca.svid(gw))
	// The port is given, so the address is this process's own.
	at := netip.AddrFrom4([4]byte{127, 100, byte(os.Getpid() >> 8), byte(os.Getpid())})
	l, err := net.Listen("tcp", netip.AddrPortFrom(at, PortHBONE).String())
	if err != nil {
		t.Fatal(err)
	}
	serveHBONE(t, l, w.ca.tlsConfig(db))
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: "db", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/db", Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{
		{Address: netip.AddrPortFrom(at, 9000), Workload: "shop/db-0", MTLS: model.MTLSStrict, Identity: db},
	}})
	port, ref := freePort(t), streamRef("TCPRoute", "r")
	putStream(w, ref, to("db", 1))
	put(w, w.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "gw", Identity: gw, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: []model.GatewayPort{{Port: port, Listeners: []model.GatewayListener{{Name: "tcp", Streams: []model.GatewayStream{{Route: ref}}}}}},
	})
	w.envoy()
	until(t, "an answer by mTLS", func() error {
		c, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", port), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		who, err := greeting(c)
		if want := fmt.Sprintf("%s %s", netip.AddrPortFrom(at, 9000), gw); err == nil && who != want {
			err = fmt.Errorf("%q answers, want %q", who, want)
		}
		return err
	})
	w.noRejections()
}
