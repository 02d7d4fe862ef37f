package xds

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// tlsConfig is a peer of the mesh that is not Envoy. Its certificate has the URIs more beside its identity.
func (ca *testCA) tlsConfig(id model.Identity, more ...model.Identity) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	cfg := &tls.Config{
		RootCAs: pool, ClientCAs: pool, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, // by name; the chain is checked below
		ClientAuth:         tls.RequireAndVerifyClientCert,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			return err
		},
	}
	if id != "" {
		chain, key := ca.issue(string(id), "", more...)
		cert, err := tls.X509KeyPair(chain, key)
		if err != nil {
			ca.t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg
}

// connectOver opens a CONNECT to authority through the HBONE listener at addr, from a pod, and gives its status.
func connectOver(t *testing.T, from *lab.Pod, cfg *tls.Config, addr netip.Addr, authority string) (*tunnelConn, int, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	raw, err := from.Dial(ctx, "tcp", netip.AddrPortFrom(addr, PortHBONE).String())
	if err != nil {
		return nil, 0, err
	}
	t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(raw, cfg)
	if err := c.Handshake(); err != nil {
		return nil, 0, err
	}
	h2, err := (&http2.Transport{}).NewClientConn(c) //nolint:staticcheck // the connection is there already, made in the pod
	if err != nil {
		return nil, 0, err
	}
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodConnect, "https://"+authority, r)
	if err != nil {
		return nil, 0, err
	}
	resp, err := h2.RoundTrip(req)
	if err != nil {
		return nil, 0, err
	}
	return &tunnelConn{Reader: resp.Body, WriteCloser: w}, resp.StatusCode, nil
}

type tunnelConn struct {
	io.Reader
	io.WriteCloser
}

// get sends a request through the tunnel.
func (c *tunnelConn) get(method, path string) (int, string, error) {
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n", method, path); err != nil {
		return 0, "", err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

// echoBytes answers with the client's address and then with what it gets.
func echoBytes(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	for _, a := range []netip.Addr{p.Address, p.Address6} {
		l := listenIn(t, p, netip.AddrPortFrom(a, port))
		go serveEach(l, func(c net.Conn) {
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = fmt.Fprintf(c, "%s\n", c.RemoteAddr().(*net.TCPAddr).IP)
			_, _ = io.Copy(c, c)
		})
	}
}

func TestHBONEListener(t *testing.T) {
	pods := labPods(t, "a", "b")
	a, b := pods[0], pods[1]
	w := newWorld(t, Config{})
	wb := workload(b, "shop", model.MTLSStrict, &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{
		{Sources: []model.PolicySource{{Identity: identity("shop", "a")}}, Ports: []uint16{9000}},
		{Sources: []model.PolicySource{{Namespace: "ops"}}},
	}})
	put(w, w.st.Workloads, wb)
	put(w, w.st.SVIDs, w.ca.svid(wb.Identity))
	echoBytes(t, b, 9000)
	echoBytes(t, b, 9001)
	w.envoy()
	w.noRejections()

	other := newTestCA(t)
	ip := b.Address.String()
	for _, test := range []struct {
		name      string
		cfg       *tls.Config
		to        netip.Addr
		authority string
		status    int // 0: the TLS handshake or the first request fails
	}{
		{"allowed by identity and port", w.ca.tlsConfig(identity("shop", "a")), b.Address, ip + ":9000", 200},
		{"IPv6", w.ca.tlsConfig(identity("shop", "a")), b.Address6, "[" + b.Address6.String() + "]:9000", 200},
		{"other port", w.ca.tlsConfig(identity("shop", "a")), b.Address, ip + ":9001", 403},
		{"allowed by namespace", w.ca.tlsConfig(identity("ops", "x")), b.Address, ip + ":9001", 200},
		{"namespace that starts the same", w.ca.tlsConfig(identity("ops2", "x")), b.Address, ip + ":9001", 403},
		{"identity that starts the same", w.ca.tlsConfig(identity("shop", "ab")), b.Address, ip + ":9000", 403},
		{"an allowed identity and another", w.ca.tlsConfig(identity("shop", "a"), identity("evil", "x")), b.Address, ip + ":9000", 403},
		{"another identity and an allowed one", w.ca.tlsConfig(identity("evil", "x"), identity("ops", "x")), b.Address, ip + ":9001", 403},
		{"an allowed identity twice", w.ca.tlsConfig(identity("ops", "x"), identity("ops", "x")), b.Address, ip + ":9001", 403},
		{"an allowed identity and a URI that is no identity", w.ca.tlsConfig(identity("shop", "a"), "https://evil.example/"), b.Address, ip + ":9000", 403},
		{"no certificate", w.ca.tlsConfig(""), b.Address, ip + ":9000", 0},
		{"another CA", other.tlsConfig(identity("shop", "a")), b.Address, ip + ":9000", 0},
		{"another trust domain", w.ca.tlsConfig("spiffe://td.test.evil/ns/shop/sa/a"), b.Address, ip + ":9000", 0},
		{"another pod's address", w.ca.tlsConfig(identity("ops", "x")), b.Address, a.Address.String() + ":9000", 404},
		{"loopback", w.ca.tlsConfig(identity("ops", "x")), b.Address, "127.0.0.1:9000", 404},
		{"a name", w.ca.tlsConfig(identity("ops", "x")), b.Address, "b.shop:9000", 404},
		{"dots are no wildcards", w.ca.tlsConfig(identity("ops", "x")), b.Address, strings.ReplaceAll(ip, ".", "1") + ":9000", 404},
		{"weft tunnel's own port", w.ca.tlsConfig(identity("ops", "x")), b.Address, ip + ":15009", 403},
		{"Envoy's own port", w.ca.tlsConfig(identity("ops", "x")), b.Address, ip + ":15006", 403},
		{"Envoy's own port with zeros", w.ca.tlsConfig(identity("ops", "x")), b.Address, ip + ":015008", 404},
		{"port out of range", w.ca.tlsConfig(identity("ops", "x")), b.Address, ip + ":99999", 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, status, err := connectOver(t, a, test.cfg, test.to, test.authority)
			if (err != nil) != (test.status == 0) || status != test.status {
				t.Fatalf("status %d, error %v; want status %d", status, err, test.status)
			}
			if status != 200 {
				return
			}
			line, err := bufio.NewReader(c).ReadString('\n')
			from := strings.TrimSpace(line)
			if err != nil || from != a.Address.String() && from != a.Address6.String() {
				t.Errorf("the app saw the client as %q (%v)", from, err)
			}
		})
	}
	t.Run("flow", func(t *testing.T) {
		until(t, "a flow with both identities", func() error {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, f := range w.flows {
				if f.Local == wb.Identity && f.Peer == identity("shop", "a") && f.Owner == "shop/b" && !f.Outbound &&
					f.Destination.String() == ip+":9000" && f.Source.Addr() == a.Address && f.Failure == "" {
					return nil
				}
			}
			return fmt.Errorf("flows: %s", describe(w.flows))
		})
	})
}

func describe(flows []*Flow) string {
	var b strings.Builder
	for _, f := range flows {
		fmt.Fprintf(&b, "\n%+v", *f)
		if f.Request != nil {
			fmt.Fprintf(&b, " %+v", *f.Request)
		}
	}
	return b.String()
}

func TestHTTPPolicy(t *testing.T) {
	pods := labPods(t, "a", "b")
	a, b := pods[0], pods[1]
	w := newWorld(t, Config{})
	wb := workload(b, "shop", model.MTLSPermissive, &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{
		{
			Sources: []model.PolicySource{{Identity: identity("shop", "a")}}, Ports: []uint16{8080},
			HTTP: []model.HTTPRule{{Methods: []string{"GET"}, Paths: []model.PathMatch{{Type: model.MatchPrefix, Value: "/public"}}}},
		},
		{Ports: []uint16{8080}, HTTP: []model.HTTPRule{{Paths: []model.PathMatch{{Type: model.MatchExact, Value: "/health"}}}}},
		{Ports: []uint16{9000}},
	}})
	put(w, w.st.Workloads, wb)
	put(w, w.st.SVIDs, w.ca.svid(wb.Identity))
	echo(t, b, 8080, "b")
	echoBytes(t, b, 9000)
	w.envoy()
	w.noRejections()

	for _, test := range []struct {
		peer         model.Identity
		method, path string
		status       int
	}{
		{identity("shop", "a"), "GET", "/public/x?y=1", 200},
		{identity("shop", "a"), "GET", "/public", 200},
		{identity("shop", "a"), "GET", "/publicity", 403},
		{identity("shop", "a"), "POST", "/public/x", 403},
		{identity("shop", "a"), "GET", "/public/../private", 403},
		{identity("shop", "a"), "GET", "/public/..%2fprivate", 400},
		{identity("shop", "a"), "GET", "/health", 200},
		{identity("shop", "x"), "GET", "/public/x", 403},
		{identity("shop", "x"), "GET", "/health", 200},
	} {
		t.Run(fmt.Sprint(test.peer, test.method, test.path), func(t *testing.T) {
			c, status, err := connectOver(t, a, w.ca.tlsConfig(test.peer), b.Address, b.Address.String()+":8080")
			if err != nil || status != 200 {
				t.Fatalf("CONNECT: %d %v", status, err)
			}
			got, body, err := c.get(test.method, test.path)
			if err != nil || got != test.status {
				t.Errorf("status %d (%v), want %d: %s", got, err, test.status, body)
			}
			if got == 200 && !strings.Contains(body, "from "+a.Address.String()) {
				t.Errorf("the app did not see the client's address: %s", body)
			}
		})
	}
	t.Run("bytes on an HTTP port", func(t *testing.T) {
		c, _, err := connectOver(t, a, w.ca.tlsConfig(identity("shop", "a")), b.Address, b.Address.String()+":8080")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "\x00\x01hello\r\n\r\n")
		answer, _ := io.ReadAll(c)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 400") && len(answer) > 0 {
			t.Errorf("answer %q", answer)
		}
	})
	t.Run("bytes on another port", func(t *testing.T) {
		c, status, err := connectOver(t, a, w.ca.tlsConfig(identity("shop", "x")), b.Address, b.Address.String()+":9000")
		if err != nil || status != 200 {
			t.Fatal(status, err)
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil {
			t.Errorf("%q %v", line, err)
		}
	})
	t.Run("port without a rule", func(t *testing.T) {
		_, status, err := connectOver(t, a, w.ca.tlsConfig(identity("shop", "a")), b.Address, b.Address.String()+":9001")
		if err != nil || status != 403 {
			t.Errorf("%d %v, want 403", status, err)
		}
	})
	t.Run("in the clear", func(t *testing.T) {
		// Without the kernel's steering the original destination is Envoy's own port, which is refused.
		if status, body, err := ask(a, netip.AddrPortFrom(b.Address, PortInbound).String(), "app", "/health"); err == nil {
			t.Errorf("Envoy's own port answered %d %q", status, body)
		}
	})
}

// hboneServer is an HBONE peer in Go: it answers a CONNECT with the authority, and then with what it gets.
// The counter is of the connections that it accepted.
func hboneServer(t *testing.T, p *lab.Pod, at string, cfg *tls.Config) *atomic.Int32 {
	t.Helper()
	l, err := p.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	return serveHBONE(t, l, cfg)
}

func serveHBONE(t *testing.T, l net.Listener, cfg *tls.Config) *atomic.Int32 {
	var accepted atomic.Int32
	count := func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			accepted.Add(1)
		}
	}
	s := &http.Server{TLSConfig: cfg, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), ConnState: count, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		w.WriteHeader(http.StatusOK)
		peer := ""
		for _, u := range r.TLS.PeerCertificates[0].URIs {
			peer = u.String()
		}
		_, _ = fmt.Fprintf(w, "%s %s\n", r.Host, peer)
		_ = http.NewResponseController(w).Flush()
		buf := make([]byte, 4096)
		for {
			n, err := r.Body.Read(buf)
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
	return &accepted
}

// A bare address: bytes go over HBONE to it, and it must show the identity of the workload that has it.
func TestBytesOverHBONE(t *testing.T) {
	for _, test := range []struct {
		name    string
		shows   model.Identity
		refused bool
	}{
		{"expected identity", identity("shop", "b"), false},
		{"another identity", identity("shop", "c"), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := labPods(t, "a")[0]
			w := newWorld(t, Config{})
			wa := workload(a, "shop", model.MTLSStrict, nil)
			// Without the kernel's hooks the original destination is the listener's own address.
			peer := &model.Workload{
				Namespace: "shop", Name: "b", Identity: identity("shop", "b"), MTLS: model.MTLSStrict,
				Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
			}
			put(w, w.st.Workloads, wa, peer)
			put(w, w.st.SVIDs, w.ca.svid(wa.Identity))
			hboneServer(t, a, "127.0.0.1:15008", w.ca.tlsConfig(test.shows))
			w.envoy()
			w.noRejections()
			line, err := func() (string, error) {
				c, err := a.Dial(t.Context(), "tcp", "127.0.0.1:15002")
				if err != nil {
					return "", err
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				return bufio.NewReader(c).ReadString('\n')
			}()
			if test.refused {
				if !errors.Is(err, io.EOF) {
					t.Errorf("answer %q, error %v; want the connection closed", line, err)
				}
			} else if want := "127.0.0.1:15002 " + string(wa.Identity) + "\n"; line != want || err != nil {
				t.Errorf("answer %q, error %v; want %q", line, err, want)
			}
			until(t, "a flow", func() error {
				w.mu.Lock()
				defer w.mu.Unlock()
				for _, f := range w.flows {
					if f.Outbound && f.Owner == "shop/a" && f.Destination.String() == "127.0.0.1:15002" {
						if test.refused && strings.Contains(f.Failure, "verif") {
							return nil
						}
						if !test.refused && f.Local == wa.Identity && f.Peer == peer.Identity && f.Failure == "" {
							return nil
						}
					}
				}
				return fmt.Errorf("flows: %s", describe(w.flows))
			})
		})
	}
}

// Connections of a workload to the same peer are tunnels in one TLS connection a worker: a handshake costs more than all
// else that a tunnel does.
func TestTunnelsShareAConnection(t *testing.T) {
	const tunnels = 50
	a := labPods(t, "a")[0]
	w := newWorld(t, Config{})
	wa := workload(a, "shop", model.MTLSStrict, nil)
	put(w, w.st.Workloads, wa, &model.Workload{
		Namespace: "shop", Name: "b", Identity: identity("shop", "b"), MTLS: model.MTLSStrict,
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	})
	put(w, w.st.SVIDs, w.ca.svid(wa.Identity))
	accepted := hboneServer(t, a, "127.0.0.1:15008", w.ca.tlsConfig(identity("shop", "b")))
	w.envoy()
	for range tunnels {
		func() {
			c, err := a.Dial(t.Context(), "tcp", "127.0.0.1:15002")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}()
	}
	if got, most := int(accepted.Load()), runtime.NumCPU(); got > most {
		t.Errorf("%d tunnels took %d TLS connections, want %d at most: one a worker", tunnels, got, most)
	}
}

// A pod loses its identity while connections to it are under way: they do not wait for a cluster that is gone.
func TestLostIdentity(t *testing.T) {
	a := labPods(t, "a")[0]
	w := newWorld(t, Config{})
	wa := workload(a, "shop", model.MTLSStrict, nil)
	peer := model.Workload{
		Namespace: "shop", Name: "b", Identity: identity("shop", "b"), MTLS: model.MTLSStrict,
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	}
	put(w, w.st.Workloads, wa, &peer)
	put(w, w.st.SVIDs, w.ca.svid(wa.Identity))
	hboneServer(t, a, "127.0.0.1:15008", w.ca.tlsConfig(peer.Identity))
	e := w.envoy()
	call := func() error {
		c, err := a.Dial(t.Context(), "tcp", "127.0.0.1:15002")
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		line, err := bufio.NewReader(c).ReadString('\n')
		if want := "127.0.0.1:15002 " + string(wa.Identity) + "\n"; line != want {
			return fmt.Errorf("answer %q, error %w", line, err)
		}
		return nil
	}
	if err := call(); err != nil {
		t.Fatal(err)
	}
	lost := peer
	lost.MTLS, lost.Identity = model.MTLSDisabled, ""
	put(w, w.st.Workloads, &lost)
	// What Envoy is sent next comes after what the change did to the cluster.
	other := workload(a, "shop", model.MTLSStrict, nil)
	other.Policy = &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{{}}}
	put(w, w.st.Workloads, other)
	until(t, "Envoy has what came after", func() error {
		if !w.accepted(TypeListener, "shop/a/in") {
			return errors.New("not yet")
		}
		return nil
	})
	if err := call(); err != nil {
		t.Errorf("after the identity is gone: %v\n%s", err, e.log.String())
	}
	w.noRejections()
}
