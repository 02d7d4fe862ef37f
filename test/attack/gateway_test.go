package attack

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

// gatewayClass is the mesh's, in front of manifests that have Gateways.
const gatewayClass = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weft}
spec: {controllerName: weft.io/gateway-controller}
---
`

const gatewayManifest = gatewayClass + `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: victim, namespace: bank}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress, value: 10.98.8.1}]
  listeners: [{name: http, protocol: HTTP, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: victim, namespace: bank}
spec: {parentRefs: [{name: victim}], rules: [{backendRefs: [{name: routed, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: tenant}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress, value: 10.98.8.2}]
  listeners:
    - {name: http, protocol: HTTP, port: 80}
    - {name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: edge}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge, namespace: tenant}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: routed, port: 80}]}]}
`

// idleGateway: connections of an outsider to a Gateway, in the clear and with TLS, on which no request comes, take
// no more than its namespace's share. Another namespace's Gateway and the pods of the node are served meanwhile.
func idleGateway(t *testing.T, a *arena) string {
	edge := a.gateways(t)
	plain := idleSpec{To: netip.AddrPortFrom(edge, 80), Many: 6000, Hold: 45 * time.Second, Pause: 3 * time.Second}
	secret := idleSpec{To: netip.AddrPortFrom(edge, 443), Many: 3000, Hold: 45 * time.Second, Pause: 3 * time.Second, TLS: true}
	var r, rs report
	memory := 0
	noticed := a.under(t, func() {
		p, s := from(t, a.outsider, "idle", plain), from(t, a.outsider, "idle", secret)
		for end := time.Now().Add(plain.Hold); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			m, _ := a.memory(t)
			memory = max(memory, m)
		}
		r, rs = p.wait(), s.wait()
	}, func() {
		p, s := plain, secret
		p.To, s.To = netip.AddrPortFrom(a.plain.Address, 8080), netip.AddrPortFrom(a.plain.Address, 8443)
		one, other := from(t, a.outsider, "idle", p), from(t, a.outsider, "idle", s)
		one.wait()
		other.wait()
	})
	return fmt.Sprintf("%d in the clear, at most %d at once; %d with TLS, at most %d at once; Envoy %d MB; %s", r.Done, r.Most, rs.Done, rs.Most, memory, noticed)
}

// gateways starts two, and returns the address of the one that is attacked. The neighbour's requests go by the other one too,
// which is another namespace's. Both end with the test.
func (a *arena) gateways(t *testing.T) (edge netip.Addr) {
	t.Helper()
	a.put(t, "gateways.yaml", gatewayManifest+"---\n"+tlsSecret(t, "tenant", "edge"))
	serveTLS(t, a.plain, ":8443")
	victim, edge := netip.MustParseAddr("10.98.8.1"), netip.MustParseAddr("10.98.8.2")
	for _, ip := range []netip.Addr{victim, edge} {
		until(t, "a Gateway is served", func() error { return reached(a.plain, netip.AddrPortFrom(ip, 80)) })
	}
	before := a.ways
	a.ways = append(before[:len(before):len(before)], way{"Gateway", a.plain, netip.AddrPortFrom(victim, 80)})
	t.Cleanup(func() { a.ways = before })
	return edge
}

// serveTLS makes handshakes at a port of a pod, in this process, and nothing else.
func serveTLS(t *testing.T, p *lab.Pod, at string) {
	t.Helper()
	cert, err := sign("https://plain.example", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ReadHeaderTimeout: 30 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
}

// tlsSecret makes a Secret with a certificate that signs itself.
func tlsSecret(t *testing.T, namespace, name string) string {
	t.Helper()
	cert, err := sign("https://edge.example", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: %s\n  tls.key: %s\n",
		name, namespace, text("CERTIFICATE", cert.Certificate[0]), text("PRIVATE KEY", key))
}
