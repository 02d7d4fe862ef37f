package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs the certificates of backends.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{key: newECDSA(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	a.cert = sign(t, template, template, a.key, a.key)
	return a
}

func newECDSA(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (a *authority) issue(t *testing.T, dns string) tls.Certificate {
	t.Helper()
	key := newECDSA(t)
	c := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: dns}, DNSNames: []string{dns}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, a.cert, key, a.key)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
}

// configMap is one with the authority's certificate.
func (a *authority) configMap(namespace, name string) string {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	return configMap(namespace, name, string(text))
}

func configMap(namespace, name, text string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata:\n  ca.crt: |\n    %s\n",
		name, namespace, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    "))
}

const largeAnswer = 1 << 20

// serveTLS answers in a pod at port 8443 with the name that the handshake had. What is not TLS gets no answer of HTTP's 200.
func (m *mesh) serveTLS(t *testing.T, namespace, pod string, cert tls.Certificate) {
	t.Helper()
	l, err := m.Pod(namespace, pod).Listen("tcp", ":8443")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s/%s sni=%s", namespace, pod, r.TLS.ServerName)
			if r.URL.Path == "/large" {
				_, _ = io.WriteString(w, strings.Repeat("x", largeAnswer))
			}
		}),
	}
	done := make(chan error, 1)
	go func() { done <- s.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// backendTLS: a Gateway, and a route of a Service, connect to backends by TLS as their BackendTLSPolicies say. One backend is
// strict, so that its TLS is inside of the mesh's.
func backendTLS(t *testing.T, m *mesh) {
	right, wrong := newAuthority(t, "right"), newAuthority(t, "wrong")
	cert := right.issue(t, "a.example")
	m.serveTLS(t, "plain", "s1", cert)
	m.serveTLS(t, "strict", "srv", cert)
	write := func(file, text string) {
		t.Helper()
		if err := m.Write("backendtls/"+file, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(m.Manifests(), "backendtls")) })
	write("right.yaml", right.configMap("plain", "right")+"---\n"+right.configMap("strict", "right"))
	write("ca.yaml", right.configMap("plain", "changing"))
	cases := []struct{ namespace, name, selector, validation, want string }{
		{"plain", "tls-good", "s1", "hostname: a.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: right}]", "200 plain/s1 sni=a.example"},
		{"strict", "tls-good", "srv", "hostname: a.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: right}]", "200 strict/srv sni=a.example"},
		{"plain", "tls-hostname", "s1", "hostname: b.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: right}]", "503"},
		{"plain", "tls-san", "s1", "hostname: a.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: right}], subjectAltNames: [{type: URI, uri: 'spiffe://x/y'}]", "503"},
		{"plain", "tls-missing", "s1", "hostname: a.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: nowhere}]", "503"},
		{"plain", "tls-changing", "s1", "hostname: a.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: changing}]", "200 plain/s1 sni=a.example"},
	}
	var services, rules strings.Builder
	for i, c := range cases {
		fmt.Fprintf(&services, `---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  clusterIP: 10.97.9.%[3]d
  selector: {pod: %[4]s}
  ports: [{name: web, port: 80, targetPort: 8443}]
`, c.name, c.namespace, i+1, c.selector)
		fmt.Fprintf(&rules, "  - {matches: [{path: {value: /%[1]s/%[2]s}}], backendRefs: [{name: %[2]s, namespace: %[1]s, port: 80}]}\n", c.namespace, c.name)
		write(fmt.Sprintf("policy-%d.yaml", i), fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: %[1]s, namespace: %[2]s}
spec: {targetRefs: [{group: "", kind: Service, name: %[1]s}], validation: {%[3]s}}
`, c.name, c.namespace, c.validation))
	}
	write("routes.yaml", services.String()+`---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weft}
spec: {controllerName: weft.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: tls, namespace: plain}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress, value: 10.98.0.9}]
  listeners: [{name: http, protocol: HTTP, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: tls, namespace: strict}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: plain}], to: [{group: "", kind: Service}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: tls, namespace: plain}
spec:
  parentRefs: [{name: tls}, {group: "", kind: Service, name: tls-good}]
  rules:
`+rules.String())
	gateway := at(netip.MustParseAddr("10.98.0.9"), 80)
	expect := func(name, path, want string) {
		t.Helper()
		until(t, name, func() error {
			a, err := call(m.outside, gateway, request{path: path, host: "x"})
			if got := fmt.Sprint(a.status, " ", a.body); err == nil && !strings.HasPrefix(got, want) {
				err = fmt.Errorf("%.200s, want %s", got, want)
			}
			return err
		})
	}
	for _, c := range cases {
		path := "/" + c.namespace + "/" + c.name
		expect(path, path, c.want)
	}
	until(t, "a route of a Service", func() error {
		a, err := call(m.Pod("plain", "c"), at(netip.MustParseAddr("10.97.9.1"), 80), request{path: "/plain/tls-good", host: "x"})
		if err == nil && (a.status != 200 || a.body != "plain/s1 sni=a.example") {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})

	const changing = "/plain/tls-changing"
	for _, step := range []struct{ name, text, want string }{
		{"another authority", wrong.configMap("plain", "changing"), "503"},
		{"the first again", right.configMap("plain", "changing"), "200"},
		{"no certificate", configMap("plain", "changing", "hello"), "503"},
		{"long text", configMap("plain", "changing", strings.Repeat("x", 70<<10)), "503"},
		{"and back", right.configMap("plain", "changing"), "200"},
	} {
		write("ca.yaml", step.text)
		expect(step.name, changing, step.want)
	}
	// Without its policy the backend is sent HTTP in the clear, which a server of TLS answers with 400.
	if err := os.Remove(filepath.Join(m.Manifests(), "backendtls", fmt.Sprintf("policy-%d.yaml", len(cases)-1))); err != nil {
		t.Fatal(err)
	}
	expect("no policy", changing, "400")
}
