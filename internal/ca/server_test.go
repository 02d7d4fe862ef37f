package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/mtls"
)

// service is a CA that serves, with a cluster of two nodes behind it.
type service struct {
	t         *testing.T
	address   netip.AddrPort
	authority *authority
	cluster   *fakeCluster
	dir       string
}

func newService(t *testing.T) *service {
	s := &service{t: t, cluster: &fakeCluster{}, dir: t.TempDir()}
	s.cluster.set(map[string]string{
		"n1/shop/web": "", "n2/shop/db": "", "gateway/edge/public": "", "gateway/edge/private": "n2", "gateway/weft-system/weft-controller": "",
		"pod/weft-system/agent-2/uid-2": "n2",
	})
	var err error
	if s.authority, err = newAuthority(td, namespace, time.Hour); err != nil {
		t.Fatal(err)
	}
	roots := &rootSecret{api: newSecretShelf(), seal: newSeal(), namespace: namespace, td: td, log: slog.New(slog.DiscardHandler)}
	all, err := roots.refresh(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.authority.update(all, "", time.Now()); err != nil {
		t.Fatal(err)
	}
	other := agentOf(map[string]string{extraNode: "n1"})
	other.Audiences = []string{"https://kubernetes.default.svc"}
	user := agentOf(map[string]string{extraNode: "n1"})
	user.User.Username = "system:serviceaccount:shop:weft-agent"
	srv := newServer(Config{
		TrustDomain: td, Namespace: namespace, Cluster: s.cluster, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Streams: map[string]func(http.ResponseWriter, *http.Request, string){
			"/v1/node": func(w http.ResponseWriter, _ *http.Request, node string) { _, _ = io.WriteString(w, node) },
			"/v1/other": func(w http.ResponseWriter, _ *http.Request, node string) {
				conn, in, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"+node+"\n")
				_, _ = io.Copy(conn, in)
			},
			"/v1/lasting": func(w http.ResponseWriter, r *http.Request, _ string) {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			},
		},
	}, s.authority, reviews{
		"agent-1":  agentOf(map[string]string{extraNode: "n1"}),
		"agent-2":  agentOf(map[string]string{extraPod: "agent-2", extraUID: "uid-2"}),
		"gone":     agentOf(map[string]string{extraPod: "agent-2", extraUID: "uid-1"}),
		"unbound":  agentOf(nil),
		"audience": other,
		"account":  user,
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = netip.MustParseAddrPort(l.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// agent is a node's way to the service; first are replicas that it asks before.
func (s *service) agent(token string, first ...netip.AddrPort) *mtls.Remote {
	file := filepath.Join(s.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	r := mtls.NewRemote(mtls.RemoteConfig{
		TrustDomain: td, Server: model.NewIdentity(td, namespace, Account), TokenFile: file,
		Replicas: func() []netip.AddrPort { return append(slices.Clone(first), s.address) },
	})
	if err := r.SetBundle([]byte(s.authority.bundle(time.Now()))); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(r.Close)
	return r
}

// TestWhoGetsWhat is the table of who may have which identity.
func TestWhoGetsWhat(t *testing.T) {
	s := newService(t)
	for _, c := range []struct{ name, token, namespace, account, refused string }{
		{"a pod on the node", "agent-1", "shop", "web", ""},
		{"the node by the agent's pod", "agent-2", "shop", "db", ""},
		{"a Gateway, on any node", "agent-2", "edge", "public", ""},
		{"a Gateway of this node", "agent-2", "edge", "private", ""},
		{"a Gateway that this node may not serve", "agent-1", "edge", "private", "that the node may serve"},
		{"a pod on another node", "agent-1", "shop", "db", "runs on node n1"},
		{"no pod", "agent-1", "shop", "nobody", "runs on node n1"},
		{"a Gateway that poses as the controller", "agent-1", namespace, Account, "runs on node n1"},
		{"no pod, and the agent's is another one", "gone", "shop", "db", "bound to no pod"},
		{"a token that is bound to nothing", "unbound", "shop", "web", "bound to no pod"},
		{"another audience", "audience", "shop", "web", "401"},
		{"another ServiceAccount", "account", "shop", "web", "system:serviceaccount:shop:weft-agent"},
		{"a token that nobody knows", "garbage", "shop", "web", "401"},
		{"no token", "", "shop", "web", "401"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := model.NewIdentity(td, c.namespace, c.account)
			got := s.agent(c.token).Sign(t.Context(), []model.Identity{id})[0]
			if c.refused == "" {
				if got.Err != nil || got.SVID.Identity != id || strings.Count(string(got.SVID.ChainPEM), "BEGIN CERTIFICATE") != 2 {
					t.Errorf("got %v, %v", got.SVID, got.Err)
				}
				return
			}
			if got.Err == nil || !strings.Contains(got.Err.Error(), c.refused) {
				t.Errorf("got %v, %v, want an error about %q", got.SVID, got.Err, c.refused)
			}
		})
	}
}

// TestPodThatComes: the agent knows of a pod a moment before the CA.
func TestPodThatComes(t *testing.T) {
	s := newService(t)
	time.AfterFunc(200*time.Millisecond, func() { s.cluster.set(map[string]string{"n1/shop/late": ""}) })
	got := s.agent("agent-1").Sign(t.Context(), []model.Identity{model.NewIdentity(td, "shop", "late")})
	if got[0].Err != nil {
		t.Error(got[0].Err)
	}
}

// TestFailover: a replica that does not answer costs one attempt, and is asked last from then on.
func TestFailover(t *testing.T) {
	s := newService(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var dialled atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			dialled.Add(1)
			c.Close()
		}
	}()
	r := s.agent("agent-1", netip.MustParseAddrPort(l.Addr().String()))
	for range 5 {
		if got := r.Sign(t.Context(), []model.Identity{webID}); got[0].Err != nil {
			t.Error(got[0].Err)
		}
	}
	if n := dialled.Load(); n != 1 {
		t.Errorf("the dead replica was asked %d times", n)
	}
}

// TestConnectionsOfOneAddress: nobody has more connections to the CA than maxConnsOfOne, also before it sees a token.
func TestConnectionsOfOneAddress(t *testing.T) {
	s := newService(t)
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: 10 * time.Second}
	handshake := func() error {
		c, err := tls.DialWithDialer(&from, "tcp", s.address.String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		return nil
	}
	for range maxConnsOfOne {
		if err := handshake(); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		if handshake() == nil {
			t.Fatal("one more is served")
		}
	}
	if conn, err := s.agent("agent-1").Connect(t.Context(), s.address, "/v1/node", "other"); err == nil {
		conn.Close()
	} else if !strings.Contains(err.Error(), "200") {
		t.Errorf("an agent at another address: %v", err)
	}
}

// TestBatch: one that is refused takes nothing from the others.
func TestBatch(t *testing.T) {
	s := newService(t)
	got := s.agent("agent-1").Sign(t.Context(), []model.Identity{
		model.NewIdentity(td, "shop", "db"), model.NewIdentity(td, "shop", "web"), "spiffe://elsewhere/ns/shop/sa/web", model.NewIdentity(td, "edge", "public"),
	})
	for i, fails := range []bool{true, false, true, false} {
		if (got[i].Err != nil) != fails {
			t.Errorf("%d: %v", i, got[i].Err)
		}
	}
}

// TestStranger: an agent says nothing to one who cannot prove to be the CA, were it a workload of the mesh.
func TestStranger(t *testing.T) {
	s := newService(t)
	web := s.agent("agent-1").Sign(t.Context(), []model.Identity{model.NewIdentity(td, "shop", "web")})[0].SVID
	pair, err := tls.X509KeyPair(web.ChainPEM, web.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan int, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		n, _ := c.Read(make([]byte, 1))
		heard <- n
	}()
	s.address = netip.MustParseAddrPort(l.Addr().String())
	got := s.agent("agent-1").Sign(t.Context(), []model.Identity{model.NewIdentity(td, "shop", "web")})[0]
	if got.Err == nil {
		t.Error("a workload's SVID passes for the CA's")
	}
	if n := <-heard; n != 0 {
		t.Error("it was told something")
	}
}

// post sends a body as an agent's and gives status and answer.
func (s *service) post(body []byte) (int, string) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(s.authority.bundle(time.Now())))
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: mtls.ServerName}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodPost, "https://"+s.address.String()+mtls.SignPath, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer agent-1")
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if res.ProtoMajor != 2 {
		s.t.Errorf("the answer came by %s", res.Proto)
	}
	return res.StatusCode, string(text)
}

func TestBadBodies(t *testing.T) {
	s := newService(t)
	for _, c := range []struct {
		name, body string
		status     int
	}{
		{"empty", "", http.StatusBadRequest},
		{"garbage", "\x00\xff{", http.StatusBadRequest},
		{"no CSR", `{"csrs":[]}`, http.StatusBadRequest},
		{"too many", `{"csrs":["` + strings.Repeat(`AA==","`, mtls.MaxBatch) + `AA=="]}`, http.StatusBadRequest},
		{"huge", `{"csrs":["` + strings.Repeat("A", mtls.MaxRequest) + `"]}`, http.StatusRequestEntityTooLarge},
		{"a CSR that is none", `{"csrs":["AAAA"]}`, http.StatusOK},
	} {
		status, text := s.post([]byte(c.body))
		if status != c.status || status == http.StatusOK && !strings.Contains(text, `"error":"CSR: `) {
			t.Errorf("%s: %d %s, want %d", c.name, status, text, c.status)
		}
	}
}

// csr makes a CSR of a P-256 key for an identity, changed by change.
func csr(t testing.TB, id string, change func(*x509.CertificateRequest)) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return csrOf(t, id, key, change)
}

func csrOf(t testing.TB, id string, key any, change func(*x509.CertificateRequest)) []byte {
	t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{URIs: []*url.URL{uri}}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

const webID = "spiffe://cluster.local/ns/shop/sa/web"

// TestCSRs: of a CSR nothing but key and SPIFFE ID comes into the certificate, and what asks for more is refused.
func TestCSRs(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	forged := csr(t, webID, nil)
	forged[len(forged)-1] ^= 1
	second, _ := url.Parse("spiffe://cluster.local/ns/shop/sa/db")
	for name, der := range map[string][]byte{
		"a DNS name":            csr(t, webID, func(r *x509.CertificateRequest) { r.DNSNames = []string{mtls.ServerName} }),
		"an address":            csr(t, webID, func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{{10, 0, 0, 1}} }),
		"a mail address":        csr(t, webID, func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b.c"} }),
		"two SPIFFE IDs":        csr(t, webID, func(r *x509.CertificateRequest) { r.URIs = append(r.URIs, second) }),
		"no name":               csr(t, webID, func(r *x509.CertificateRequest) { r.URIs = nil }),
		"another trust domain":  csr(t, "spiffe://other/ns/shop/sa/web", nil),
		"another form":          csr(t, "spiffe://cluster.local/shop/web", nil),
		"the trust domain's ID": csr(t, "spiffe://cluster.local", nil),
		"P-384":                 csrOf(t, webID, p384, nil),
		"RSA":                   csrOf(t, webID, rsaKey, nil),
		"Ed25519":               csrOf(t, webID, edKey, nil),
		"a false signature":     forged,
		"something after it":    append(csr(t, webID, nil), 0),
		"nothing":               nil,
	} {
		if w, err := parseCSR(td, der); err == nil {
			t.Errorf("%s: taken as %v", name, w.id)
		}
	}
	s := newService(t)
	constraints, err := asn1.Marshal(struct{ IsCA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(mtls.SignRequest{CSRs: [][]byte{csr(t, webID, func(r *x509.CertificateRequest) {
		r.Subject = pkix.Name{CommonName: "weft-controller"}
		r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints}}
	})}})
	if err != nil {
		t.Fatal(err)
	}
	_, text := s.post(body)
	var response mtls.SignResponse
	if err := json.Unmarshal([]byte(text), &response); err != nil || len(response.Results) != 1 || response.Results[0].Error != "" {
		t.Fatalf("%v: %s", err, text)
	}
	leaf, err := x509.ParseCertificate(response.Results[0].Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if leaf.IsCA || leaf.Subject.String() != "" || len(leaf.URIs) != 1 || leaf.URIs[0].String() != webID || len(leaf.DNSNames) > 0 {
		t.Errorf("CA %v, subject %q, URIs %v, names %v", leaf.IsCA, leaf.Subject, leaf.URIs, leaf.DNSNames)
	}
	if life := time.Until(leaf.NotAfter); life > time.Hour || life < 59*time.Minute {
		t.Errorf("it lives %v", life)
	}
}

func FuzzRequest(f *testing.F) {
	good, err := json.Marshal(mtls.SignRequest{CSRs: [][]byte{csr(f, webID, nil)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"csrs":["AAAA"]}`))
	f.Add([]byte(`{"csrs":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseRequest(body)
		if err != nil {
			return
		}
		if len(r.CSRs) == 0 || len(r.CSRs) > mtls.MaxBatch {
			t.Errorf("%d CSRs are taken", len(r.CSRs))
		}
		for _, der := range r.CSRs {
			w, err := parseCSR(td, der)
			if err != nil {
				continue
			}
			if w.id != model.NewIdentity(td, w.namespace, w.serviceAccount) || w.public == nil {
				t.Errorf("%q is read as %q, %q", w.id, w.namespace, w.serviceAccount)
			}
		}
	})
}
