package attack

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// handshake is one way to begin a connection with a port that takes peers. The certificate is one of mallory's, who is let in, that
// the authority of the mesh has signed after change. It comes from where no identity is: what a pod of the mesh sends to these ports is
// taken over at connect.
type handshake struct {
	name   string
	change func(*x509.Certificate)
	config func(*tls.Config)
	wire   func(net.Conn) net.Conn // what becomes of the client's bytes
	in     []uint16                // the ports at which it is let in
}

const mallory = "spiffe://cluster.local/ns/tenant/sa/mallory"

var bothPorts = []uint16{model.PortHBONE, model.PortTunnel}

func handshakes() []handshake {
	uris := func(text ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, u := range text {
				c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Opaque: strings.TrimPrefix(u, "spiffe:")})
			}
		}
	}
	alpn := func(many, length int) func(*tls.Config) {
		return func(c *tls.Config) {
			for i := range many {
				c.NextProtos = append([]string{fmt.Sprintf("%0*d", length, i)}, c.NextProtos...)
			}
		}
	}
	version := func(v uint16) func(*tls.Config) {
		return func(c *tls.Config) { c.MinVersion, c.MaxVersion = v, v }
	}
	first := func(b ...byte) func(net.Conn) net.Conn {
		return func(c net.Conn) net.Conn { return &rewritten{Conn: c, before: b} }
	}
	return []handshake{
		{name: "as it should be", in: bothPorts},
		{name: "byte by byte", wire: func(c net.Conn) net.Conn { return &rewritten{Conn: c, bytewise: true} }, in: bothPorts},
		{name: "TLS 1.0", config: version(tls.VersionTLS10)},
		{name: "TLS 1.2", config: version(tls.VersionTLS12)},
		{name: "no ALPN", config: func(c *tls.Config) { c.NextProtos = nil }, in: []uint16{model.PortHBONE}},
		{name: "200 protocols of ALPN", config: alpn(200, 10), in: bothPorts},
		{name: "a ClientHello of 40 KB", config: alpn(200, 200), in: []uint16{model.PortHBONE}},
		{name: "a name of 250 bytes", config: func(c *tls.Config) { c.ServerName = strings.Repeat("a.", 124) + "aa" }, in: bothPorts},
		{name: "no certificate", config: func(c *tls.Config) { c.Certificates = nil }},
		{name: "data before the server's answer", wire: func(c net.Conn) net.Conn {
			return &rewritten{Conn: c, after: []byte("\x17\x03\x03\x00\x05hello")}
		}},
		{name: "100,000 ChangeCipherSpec", wire: first(bytes.Repeat([]byte{20, 3, 3, 0, 1, 1}, 100_000)...)},
		{name: "an empty record", wire: first(22, 3, 3, 0, 0), in: []uint16{model.PortHBONE}},
		{name: "a record of 64 KB", wire: first(append([]byte{22, 3, 3, 0xff, 0xff}, make([]byte, 0xffff)...)...)},
		{name: "HTTP in the clear", wire: first([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")...)},
		{name: "SSL 2", wire: first(0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10)},
		{name: "expired", change: func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
		}},
		{name: "not valid yet", change: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }},
		{name: "for servers only", change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }},
		{name: "for e-mail only", change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }},
		{name: "an authority", change: func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }},
		{name: "another trust domain", change: uris("spiffe://elsewhere/ns/tenant/sa/mallory")},
		{name: "the trust domain in capitals", change: uris("spiffe://CLUSTER.LOCAL/ns/tenant/sa/mallory")},
		{name: "a longer trust domain", change: uris("spiffe://cluster.local.evil.example/ns/tenant/sa/mallory")},
		{name: "no URI", change: uris()},
		{name: "a URI of another scheme", change: func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "cluster.local", Path: "/x"}} }},
		{name: "two URIs", change: uris(mallory, "spiffe://cluster.local/ns/bank/sa/client")},
		{name: "the same URI twice", change: uris(mallory, mallory)},
		{name: "a comma in the ID", change: uris(mallory + ",spiffe://cluster.local/ns/bank/sa/client")},
		{name: "an ID with a zero byte", change: uris(mallory + "%00.evil")},
		{name: "an ID with a query", change: uris(mallory + "?x")},
		{name: "an ID with an empty query", change: uris(mallory + "?")},
		{name: "an ID with an empty fragment", change: uris(mallory + "#")},
		{name: "an ID with a user", change: uris("spiffe://a@cluster.local/ns/tenant/sa/mallory")},
		{name: "an ID with a port", change: uris("spiffe://cluster.local:80/ns/tenant/sa/mallory")},
		{name: "an ID with dots", change: uris("spiffe://cluster.local/ns/bank/../tenant/sa/mallory")},
		{name: "only the trust domain", change: uris("spiffe://cluster.local")},
	}
}

// rewritten is a connection that writes other bytes than it is given: some before the first, or after the first call, or each alone.
type rewritten struct {
	net.Conn
	before, after []byte
	bytewise      bool
}

func (r *rewritten) Write(p []byte) (int, error) {
	out := append(append(r.before, p...), r.after...)
	r.before, r.after = nil, nil
	if !r.bytewise {
		if _, err := r.Conn.Write(out); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	for i := range out {
		if _, err := r.Conn.Write(out[i : i+1]); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// oddHandshakes: a peer that begins as it should not, or whose certificate is not what it should be, is not let in by weft tunnel or
// by Envoy. It leaves no connection behind, and the neighbour is served.
func oddHandshakes(t *testing.T, a *arena) string {
	ca, key := a.authority(t)
	tried := 0
	silent := a.silent(t)
	all := handshakes()
	good, signed := all[0], changed(t, nil, ca, key)
	for _, h := range all {
		cert := changed(t, h.change, ca, key)
		for _, port := range bothPorts {
			tried++
			time.Sleep(40 * time.Millisecond) // a pod takes 40 connections a second of a stranger
			want := false
			for _, p := range h.in {
				want = want || p == port
			}
			to := netip.AddrPortFrom(a.server.Address, port)
			if err := h.try(a.outsider, to, cert); (err == nil) != want {
				t.Errorf("%s, at port %d: let in %t, want %t: %v", h.name, port, err == nil, want, err)
			}
			if want {
				continue
			}
			// A refusal is of the handshake only if the port takes others.
			time.Sleep(40 * time.Millisecond)
			if err := good.try(a.outsider, to, signed); err != nil {
				t.Errorf("after %s, at port %d: a handshake as it should be: %v", h.name, port, err)
			}
		}
	}
	silent()
	if err := a.neighbourServed(); err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%d handshakes", tried)
}

// authority is the certificate and the key that sign the identities of the node.
func (a *arena) authority(t *testing.T) (*x509.Certificate, crypto.PrivateKey) {
	t.Helper()
	roots, err := filepath.Glob(filepath.Join(a.Dir, "state", "*", "root-1.pem"))
	if err != nil || len(roots) != 1 {
		t.Fatalf("roots %v, %v", roots, err)
	}
	root, err := tls.LoadX509KeyPair(roots[0], roots[0])
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(root.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return ca, root.PrivateKey
}

// changed signs a certificate of mallory after a change.
func changed(t *testing.T, change func(*x509.Certificate), ca *x509.Certificate, by crypto.PrivateKey) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := url.Parse(mallory)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{id}, BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// try returns nil if the peer is let in: by Envoy, if an application's answer comes back, and by weft tunnel, if a ping is answered.
func (h *handshake) try(from *lab.Pod, to netip.AddrPort, cert tls.Certificate) error {
	ctx := contextFor(5 * time.Second)
	c, err := from.Dial(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if h.wire != nil {
		c = h.wire(c)
	}
	config := &tls.Config{
		NextProtos: []string{"h2"}, Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, // the attacker does not care
	}
	if to.Port() == model.PortTunnel {
		config.NextProtos = []string{"weft-tunnel/1"}
	}
	if h.config != nil {
		h.config(config)
	}
	s := tls.Client(c, config)
	if err := s.HandshakeContext(ctx); err != nil {
		return err
	}
	if to.Port() == model.PortTunnel {
		if _, err := s.Write(appendFrame(nil, 0, 6, 7)); err != nil {
			return err
		}
		_, err := io.ReadFull(s, make([]byte, 8))
		return err
	}
	return connectOnce(ctx, s, netip.AddrPortFrom(to.Addr(), 8080))
}

// connectOnce asks Envoy for a connection to an application.
func connectOnce(ctx context.Context, c net.Conn, to netip.AddrPort) error {
	session, err := (&http2.Transport{}).NewClientConn(c) //nolint:staticcheck // the connection is there already, made in the pod
	if err != nil {
		return err
	}
	body, stop := io.Pipe()
	defer stop.Close()
	r, err := http.NewRequestWithContext(ctx, http.MethodConnect, "https://"+to.String(), body)
	if err != nil {
		return err
	}
	answer, err := session.RoundTrip(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("CONNECT is answered %s", answer.Status)
	}
	go func() { _, _ = io.WriteString(stop, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") }()
	_, err = io.ReadFull(answer.Body, make([]byte, len("HTTP/1.1 200")))
	return err
}

// silent opens connections on which nothing, or the beginning of a ClientHello, is sent. What it returns checks that each was closed.
func (a *arena) silent(t *testing.T) (check func()) {
	t.Helper()
	hello := clientHello()
	open := map[string]net.Conn{}
	for _, port := range bothPorts {
		for _, sent := range []int{0, 1, len(hello) / 2} {
			c, err := a.outsider.Dial(contextFor(5*time.Second), "tcp", netip.AddrPortFrom(a.server.Address, port).String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(hello[:sent]); err != nil {
				t.Error(err)
			}
			open[fmt.Sprintf("%d bytes to port %d", sent, port)] = c
		}
	}
	return func() {
		for name, c := range open {
			_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
			var timeout net.Error
			if _, err := io.Copy(io.Discard, c); errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("%s: the connection is still open", name)
			}
			c.Close()
		}
	}
}
