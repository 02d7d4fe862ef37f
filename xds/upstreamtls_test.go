package xds

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// issueNames returns a certificate for DNS names and URIs.
func (ca *testCA) issueNames(names ...string) tls.Certificate {
	ca.t.Helper()
	ca.n++
	key := newKey(ca.t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1 + ca.n), Subject: pkix.Name{CommonName: "backend"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	for _, n := range names {
		if u, err := url.Parse(n); err == nil && u.Scheme != "" {
			tmpl.URIs = append(tmpl.URIs, u)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// clearListener counts the connections that do not begin with a TLS record.
type clearListener struct {
	net.Listener
	clear *atomic.Int64
}

func (l clearListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &clearConn{Conn: c, clear: l.clear}, err
}

type clearConn struct {
	net.Conn
	clear *atomic.Int64
	read  bool
}

func (c *clearConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.read {
		c.read = true
		if b[0] != 0x16 {
			c.clear.Add(1)
		}
	}
	return n, err
}

// tlsBackend is a service with one endpoint on the loopback that speaks TLS alone, and tells the name that the handshake had
// and what the client showed.
type tlsBackend struct {
	hits, clear atomic.Int64
}

func newTLSBackend(t *testing.T, w *world, name string, p model.ServicePort, cfg *tls.Config) *tlsBackend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &tlsBackend{}
	cfg.NextProtos = []string{"h2", "http/1.1"}
	s := &http.Server{TLSConfig: cfg, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b.hits.Add(1)
		shown := "none"
		if len(r.TLS.PeerCertificates) > 0 {
			shown = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		fmt.Fprintf(rw, "%s sni=%s %s client=%s %x", name, r.TLS.ServerName, r.Proto, shown, r.TLS.Version)
	})}
	go func() { _ = s.ServeTLS(clearListener{l, &b.clear}, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	p.Port, p.Protocol = 80, model.TCP
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: name, Ports: []model.ServicePort{p}})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/" + name, Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{
		{Address: netip.MustParseAddrPort(l.Addr().String())},
	}})
	return b
}

func policyOf(service string, change func(*model.BackendTLS)) *model.BackendTLS {
	t := &model.BackendTLS{
		Namespace: "shop", Service: service, Port: 80, ServerName: "a.example", SANs: []model.SubjectAltName{{DNS: "a.example"}},
		Policy: model.ObjectVersion{ObjectRef: model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "BackendTLSPolicy", Namespace: "shop", Name: service}, Generation: 1},
	}
	if change != nil {
		change(t)
	}
	return t
}

func rulesTo(services ...string) []model.Rule {
	var out []model.Rule
	for _, s := range services {
		out = append(out, model.Rule{Match: path(model.MatchExact, "/"+s), Backends: []model.Backend{to(s, 1)}})
	}
	return out
}

// TestBackendTLS reaches endpoints whose certificate is as the policy says, and no others.
func TestBackendTLS(t *testing.T) {
	other := newTestCA(t)
	w := newWorld(t, Config{SystemRoots: append(other.pem(), newTestCA(t).pem()...)})
	ca, foreign := string(w.ca.pem()), string(other.pem())
	cert := w.ca.issueNames("a.example", "*.wild.example", "spiffe://td/of-backend")
	cases := []struct {
		name   string
		change func(*model.BackendTLS)
		want   string // of the answer; "" for a refusal
	}{
		{"hostname", func(b *model.BackendTLS) { b.CA = ca }, "sni=a.example HTTP/1.1"},
		{"two-authorities", func(b *model.BackendTLS) { b.CA = foreign + ca }, "sni=a.example HTTP/1.1"},
		{"wildcard", func(b *model.BackendTLS) {
			b.CA, b.ServerName, b.SANs = ca, "x.wild.example", []model.SubjectAltName{{DNS: "x.wild.example"}}
		}, "sni=x.wild.example"},
		{"uri", func(b *model.BackendTLS) { b.CA, b.SANs = ca, []model.SubjectAltName{{URI: "spiffe://td/of-backend"}} }, "sni=a.example"},
		{"one-of-two", func(b *model.BackendTLS) {
			b.CA, b.ServerName, b.SANs = ca, "not.in.certificate", []model.SubjectAltName{{DNS: "x.example"}, {URI: "spiffe://td/of-backend"}}
		}, "sni=not.in.certificate"},
		{"other-authority", func(b *model.BackendTLS) { b.CA = foreign }, ""},
		{"other-hostname", func(b *model.BackendTLS) {
			b.CA, b.ServerName, b.SANs = ca, "b.example", []model.SubjectAltName{{DNS: "b.example"}}
		}, ""},
		{"other-dns", func(b *model.BackendTLS) { b.CA, b.SANs = ca, []model.SubjectAltName{{DNS: "b.example"}} }, ""},
		{"other-uri", func(b *model.BackendTLS) { b.CA, b.SANs = ca, []model.SubjectAltName{{URI: "spiffe://td/other"}} }, ""},
		{"uri-as-dns", func(b *model.BackendTLS) { b.CA, b.SANs = ca, []model.SubjectAltName{{DNS: "spiffe://td/of-backend"}} }, ""},
		{"system", func(*model.BackendTLS) {}, ""},
		{"invalid", func(b *model.BackendTLS) { b.Invalid = true }, ""},
	}
	backends, names := map[string]*tlsBackend{}, []string{}
	for _, c := range cases {
		backends[c.name] = newTLSBackend(t, w, c.name, model.ServicePort{}, &tls.Config{Certificates: []tls.Certificate{cert}})
		put(w, w.st.BackendTLS, policyOf(c.name, c.change))
		names = append(names, c.name)
	}
	backends["of-system"] = newTLSBackend(t, w, "of-system", model.ServicePort{}, &tls.Config{Certificates: []tls.Certificate{other.issueNames("a.example")}})
	put(w, w.st.BackendTLS, policyOf("of-system", nil))
	backends["h2"] = newTLSBackend(t, w, "h2", model.ServicePort{AppProtocol: "kubernetes.io/h2c"}, &tls.Config{Certificates: []tls.Certificate{cert}})
	put(w, w.st.BackendTLS, policyOf("h2", func(b *model.BackendTLS) { b.CA = ca }))
	port := freePort(t)
	gatewayWith(w, port, rulesTo(append(names, "of-system", "h2")...)...)
	e := w.envoy()
	expect := func(name, want string) {
		e.until(name, func() error {
			a, err := trySend(port, "GET", "x", "/"+name, nil)
			if err == nil && (want == "" && a.status != 503 || want != "" && (a.status != 200 || !strings.Contains(a.body, want))) {
				err = fmt.Errorf("%d %s, want %q", a.status, a.body, want)
			}
			return err
		})
	}
	for _, c := range cases {
		expect(c.name, c.want)
	}
	expect("of-system", "sni=a.example")
	expect("h2", "HTTP/2.0")
	for name, b := range backends {
		if n := b.clear.Load(); n > 0 {
			t.Errorf("%s got %d connections in the clear", name, n)
		}
	}
	w.noRejections()

	// A change takes effect for connections that are pooled too.
	put(w, w.st.BackendTLS, policyOf("hostname", func(b *model.BackendTLS) { b.CA = foreign }))
	expect("hostname", "")
	put(w, w.st.BackendTLS, policyOf("hostname", func(b *model.BackendTLS) { b.CA = ca }))
	expect("hostname", "sni=a.example")
	put(w, w.st.BackendTLS, policyOf("hostname", func(b *model.BackendTLS) { b.Invalid = true }))
	expect("hostname", "")
	if n := backends["hostname"].clear.Load(); n > 0 {
		t.Errorf("%d connections in the clear", n)
	}
	remove(w, w.st.BackendTLS, "shop/hostname/80")
	e.until("in the clear", func() error {
		a, err := trySend(port, "GET", "x", "/hostname", nil)
		if err == nil && a.status != 400 { // what Go's server says to HTTP where TLS is spoken
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})
	w.noRejections()
}

// TestBackendTLSWithoutSystemRoots sends nothing.
func TestBackendTLSWithoutSystemRoots(t *testing.T) {
	w := newWorld(t, Config{})
	b := newTLSBackend(t, w, "web", model.ServicePort{}, &tls.Config{Certificates: []tls.Certificate{w.ca.issueNames("a.example")}})
	put(w, w.st.BackendTLS, policyOf("web", nil))
	port := freePort(t)
	gatewayWith(w, port, rulesTo("web")...)
	w.envoy().until("503", func() error {
		a, err := trySend(port, "GET", "x", "/web", nil)
		if err == nil && a.status != 503 {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})
	if b.hits.Load()+b.clear.Load() > 0 {
		t.Error("the backend was reached")
	}
	w.noRejections()
}

// TestMirrorTLS: copies of requests go by the policy of their backend.
func TestMirrorTLS(t *testing.T) {
	w := newWorld(t, Config{})
	backend(t, w, "live")
	copies := newTLSBackend(t, w, "copies", model.ServicePort{}, &tls.Config{Certificates: []tls.Certificate{w.ca.issueNames("a.example")}})
	put(w, w.st.BackendTLS, policyOf("copies", func(b *model.BackendTLS) { b.CA = string(w.ca.pem()) }))
	port := freePort(t)
	gatewayWith(w, port, model.Rule{
		Backends: []model.Backend{to("live", 1)}, Mirrors: []model.Mirror{{Backend: to("copies", 1), Numerator: 100, Denominator: 100}},
	})
	w.envoy().until("a copy", func() error {
		if a, err := trySend(port, "GET", "x", "/", nil); err != nil || a.status != 200 {
			return fmt.Errorf("%d, %w", a.status, err)
		}
		if copies.hits.Load() == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
	if n := copies.clear.Load(); n > 0 {
		t.Errorf("%d copies in the clear", n)
	}
	w.noRejections()
}

// TestStreamTLS: connections of a TCPRoute, and of a TLSRoute whose TLS ends at the Gateway, are made TLS for backends with a
// policy, and for those alone. What is passed through stays as it is.
func TestStreamTLS(t *testing.T) {
	w := newWorld(t, Config{})
	ca := string(w.ca.pem())
	greeter(t, w, "secret", &tls.Config{Certificates: []tls.Certificate{w.ca.issueNames("a.example")}})
	greeter(t, w, "clear", nil)
	greeter(t, w, "wrong", &tls.Config{Certificates: []tls.Certificate{newTestCA(t).issueNames("a.example")}})
	for _, s := range []string{"secret", "wrong"} {
		put(w, w.st.BackendTLS, policyOf(s, func(b *model.BackendTLS) { b.CA = ca }))
	}
	chain, key := w.ca.issue("", "of.gateway")
	put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: "cert", ChainPEM: chain, KeyPEM: key})
	both, wrong, plain, ended := streamRef("TCPRoute", "both"), streamRef("TCPRoute", "wrong"), freePort(t), freePort(t)
	putStream(w, both, to("secret", 1), to("clear", 1))
	putStream(w, wrong, to("wrong", 1))
	tlsRoute := streamRef("TLSRoute", "r")
	putStream(w, tlsRoute, to("secret", 1))
	refused := freePort(t)
	put(w, w.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Ports: []model.GatewayPort{
			{Port: plain, Listeners: []model.GatewayListener{{Name: "tcp", Streams: []model.GatewayStream{{Route: both}}}}},
			{Port: refused, Listeners: []model.GatewayListener{{Name: "wrong", Streams: []model.GatewayStream{{Route: wrong}}}}},
			{Port: ended, TLS: true, Listeners: []model.GatewayListener{
				{Name: "end", Certificates: []string{"shop/cert"}, Streams: []model.GatewayStream{{Hostname: "end.example", Route: tlsRoute}}},
				{Name: "pass", Streams: []model.GatewayStream{{Hostname: "a.example", Route: tlsRoute}}},
			}},
		},
	})
	w.envoy()
	seen := map[string]bool{}
	until(t, "both backends", func() error {
		c, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", plain), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		who, err := greeting(c)
		if err == nil {
			seen[who] = true
		}
		if !seen["secret"] || !seen["clear"] {
			err = fmt.Errorf("%v, %w", seen, err)
		}
		return err
	})
	if len(seen) != 2 {
		t.Errorf("%v answered", seen)
	}
	for sni, shows := range map[string]string{"end.example": "of.gateway", "a.example": "a.example"} {
		until(t, sni, func() error {
			c, err := tls.Dial("tcp", fmt.Sprint("127.0.0.1:", ended), &tls.Config{ServerName: sni, InsecureSkipVerify: true})
			if err != nil {
				return err
			}
			defer c.Close()
			who, err := greeting(c)
			if got := c.ConnectionState().PeerCertificates[0].DNSNames[0]; err == nil && (who != "secret" || got != shows) {
				err = fmt.Errorf("%q answers, with a certificate of %s", who, got)
			}
			return err
		})
	}
	if c, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", refused), 5*time.Second); err == nil {
		if who, err := greeting(c); err == nil {
			t.Errorf("%q answers, whose certificate is of another authority", who)
		}
		_ = c.Close()
	}
	w.noRejections()
}

// tlsInHBONE serves CONNECT, and TLS in the tunnels.
func tlsInHBONE(t *testing.T, l net.Listener, hbone, inner *tls.Config) {
	tunnels := make(chan net.Conn)
	s := &http.Server{TLSConfig: hbone, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		near, far := net.Pipe()
		defer near.Close()
		select {
		case tunnels <- far:
		case <-r.Context().Done():
			return
		}
		go func() {
			_, _ = io.Copy(near, r.Body)
			_ = near.Close()
		}()
		buf := make([]byte, 16<<10)
		for {
			n, err := near.Read(buf)
			if n > 0 {
				_, _ = w.Write(buf[:n])
				_ = http.NewResponseController(w).Flush()
			}
			if err != nil {
				return
			}
		}
	})}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	app := &http.Server{TLSConfig: inner, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "inner sni=%s", r.TLS.ServerName)
	})}
	go func() {
		_ = app.ServeTLS(&tunnelListener{conns: tunnels, addr: l.Addr(), done: t.Context().Done()}, "", "")
	}()
	t.Cleanup(func() { _ = app.Close() })
}

type tunnelListener struct {
	conns chan net.Conn
	addr  net.Addr
	done  <-chan struct{}
}

func (l *tunnelListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *tunnelListener) Close() error   { return nil }
func (l *tunnelListener) Addr() net.Addr { return l.addr }

// TestBackendTLSInsideHBONE: an endpoint with an identity is sent TLS inside of the mesh's tunnel.
func TestBackendTLSInsideHBONE(t *testing.T) {
	w := newWorld(t, Config{})
	gw, web := identity("shop", "gw"), identity("shop", "web")
	put(w, w.st.SVIDs, w.ca.svid(gw))
	at := netip.AddrFrom4([4]byte{127, 101, byte(os.Getpid() >> 8), byte(os.Getpid())}) // the port is given, so the address is this process's own
	l, err := net.Listen("tcp", netip.AddrPortFrom(at, PortHBONE).String())
	if err != nil {
		t.Fatal(err)
	}
	own := newTestCA(t)
	tlsInHBONE(t, l, w.ca.tlsConfig(web), &tls.Config{Certificates: []tls.Certificate{own.issueNames("a.example")}})
	for _, s := range []string{"web", "wrong"} {
		put(w, w.st.Services, &model.Service{Namespace: "shop", Name: s, Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
		put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/" + s, Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{
			{Address: netip.AddrPortFrom(at, 9000), Workload: "shop/web-0", MTLS: model.MTLSStrict, Identity: web},
		}})
	}
	put(w, w.st.BackendTLS, policyOf("web", func(b *model.BackendTLS) { b.CA = string(own.pem()) }),
		policyOf("wrong", func(b *model.BackendTLS) { b.CA = string(w.ca.pem()) }))
	port := freePort(t)
	gatewayWith(w, port, rulesTo("web", "wrong")...)
	g, _ := w.st.Gateways.Get(w.st.Snapshot(), "shop/gw")
	with := *g
	with.Identity = gw
	put(w, w.st.Gateways, &with)
	e := w.envoy()
	for name, want := range map[string]string{"web": "200 inner sni=a.example", "wrong": "503 "} {
		e.until(name, func() error {
			a, err := trySend(port, "GET", "x", "/"+name, nil)
			if got := fmt.Sprint(a.status, " ", a.body); err == nil && !strings.HasPrefix(got, want) {
				err = fmt.Errorf("%s, want %s", got, want)
			}
			return err
		})
	}
	w.noRejections()
}

// TestSystemRootsAreASecret: clusters share it.
func TestSystemRootsAreASecret(t *testing.T) {
	w := newWorld(t, Config{SystemRoots: []byte("roots")})
	m, ok := w.server.Build(TypeSecret, SecretSystemCA)
	if !ok {
		t.Fatal("no secret")
	}
	b, err := marshal(TypeSecret, m)
	if err != nil || !bytes.Contains(b.Value, []byte("roots")) {
		t.Error(err)
	}
}

// TestGatewayShowsCertificate: backends that a policy selects are shown the Gateway's certificate, for requests, copies and
// connections. A Gateway without one shows none, and a certificate that is replaced is shown from then on.
func TestGatewayShowsCertificate(t *testing.T) {
	w := newWorld(t, Config{})
	pool := x509.NewCertPool()
	pool.AddCert(w.ca.cert)
	asks := func() *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{w.ca.issueNames("a.example")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	}
	newTLSBackend(t, w, "web", model.ServicePort{}, asks())
	copies := newTLSBackend(t, w, "copies", model.ServicePort{}, asks())
	greeter(t, w, "bytes", asks())
	for _, s := range []string{"web", "copies", "bytes"} {
		put(w, w.st.BackendTLS, policyOf(s, func(b *model.BackendTLS) { b.CA = string(w.ca.pem()) }))
	}
	certificate := func(ca *testCA) {
		chain, key := ca.issue("", "of.gateway")
		put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: "client", ChainPEM: chain, KeyPEM: key})
	}
	certificate(w.ca)
	port, stream, route := freePort(t), freePort(t), streamRef("TCPRoute", "bytes")
	putStream(w, route, to("bytes", 1))
	gatewayWith(w, port, model.Rule{
		Backends: []model.Backend{to("web", 1)}, Mirrors: []model.Mirror{{Backend: to("copies", 1), Numerator: 100, Denominator: 100}},
	})
	shows := func(key string) {
		put(w, w.st.Gateways, &model.Gateway{
			Namespace: "shop", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, BackendCertificate: key,
			Ports: []model.GatewayPort{
				{Port: port, Listeners: []model.GatewayListener{{Name: "http", RouteTable: model.GatewayTable("shop", "gw", port, "")}}},
				{Port: stream, Listeners: []model.GatewayListener{{Name: "tcp", Streams: []model.GatewayStream{{Route: route}}}}},
			},
		})
	}
	shows("shop/client")
	e := w.envoy()
	answers := func(want int) {
		t.Helper()
		e.until(fmt.Sprint(want), func() error {
			a, err := trySend(port, "GET", "x", "/", nil)
			if err == nil && a.status != want {
				err = fmt.Errorf("%d %s", a.status, a.body)
			}
			return err
		})
	}
	answers(200)
	connects := func() error {
		c, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", stream), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = greeting(c)
		return err
	}
	until(t, "bytes", connects)
	until(t, "a copy", func() error {
		answers(200)
		if copies.hits.Load() == 0 {
			return errors.New("none came")
		}
		return nil
	})
	shows("")
	answers(503)
	shows("shop/client")
	answers(200)
	certificate(newTestCA(t)) // for new connections
	until(t, "bytes, by a certificate that the backend does not know", func() error {
		if err := connects(); err != nil {
			return nil //nolint:nilerr // it is refused
		}
		return errors.New("they pass")
	})
	certificate(w.ca)
	until(t, "bytes", connects)
	w.noRejections()
}
