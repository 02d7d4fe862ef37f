package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
)

const gatewayManifest = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weft}
spec: {controllerName: weft.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: strict}
spec:
  gatewayClassName: weft
  allowedListeners: {namespaces: {from: All}}
  addresses: [{type: IPAddress, value: 10.98.0.1}, {type: IPAddress, value: "fd98::1"}]
  listeners:
    - {name: http, protocol: HTTP, port: 80}
    - {name: https, protocol: HTTPS, port: 443, hostname: shop.example, tls: {certificateRefs: [{name: shop}]}}
    - {name: dns, protocol: UDP, port: 53}
    - {name: dns-tcp, protocol: TCP, port: 53}
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: edge, namespace: strict}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: srv, port: 53}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge, namespace: strict}
spec:
  parentRefs: [{name: edge}]
  hostnames: [shop.example]
  rules: [{backendRefs: [{name: srv, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: tenant, namespace: plain}
spec:
  parentRef: {name: edge, namespace: strict}
  listeners:
    - {name: http, protocol: HTTP, port: 80, hostname: tenant.example}
    - {name: own, protocol: HTTP, port: 8080}
    - {name: stolen, protocol: HTTPS, port: 443, hostname: shop.example, tls: {certificateRefs: [{name: shop}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: tenant, namespace: plain}
spec:
  parentRefs: [{kind: ListenerSet, name: tenant}]
  rules: [{backendRefs: [{name: s1, port: 80}]}]
`

// gateways: from outside to a strict pod, in both families.
func gateways(t *testing.T, m *mesh) {
	secret, ca := certificate(t, "one")
	write := func(secret string) {
		if err := m.Write("edge/certificate.yaml", []byte(secret)); err != nil {
			t.Fatal(err)
		}
	}
	write(secret)
	m.apply(t, gatewayManifest)
	ips := []netip.Addr{netip.MustParseAddr("10.98.0.1"), netip.MustParseAddr("fd98::1")}
	for _, ip := range ips {
		until(t, "HTTP at "+ip.String(), func() error {
			return want(m.outside, at(ip, 80), request{path: "/", host: "shop.example"}, 200, "strict/srv")
		})
		if err := want(m.outside, at(ip, 80), request{path: "/", host: "unknown.example"}, 404, ""); err != nil {
			t.Error(err)
		}
		for _, of := range []struct {
			port uint16
			host string
		}{{80, "tenant.example"}, {8080, "any.example"}} {
			until(t, fmt.Sprintf("the ListenerSet's %s at %s port %d", of.host, ip, of.port), func() error {
				return want(m.outside, at(ip, of.port), request{path: "/", host: of.host}, 200, "plain/s1")
			})
		}
		until(t, "HTTPS at "+ip.String(), func() error { _, err := m.handshake(ip, ca); return err })
		m.datagramsAt(t, ip)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	t.Run("certificate replaced", func(t *testing.T) {
		next, nextCA := certificate(t, "two")
		pool.AddCert(nextCA)
		under(t, load.Config{
			URL: "https://" + at(ips[0], 443), Host: "shop.example", Dial: m.outside.Dial, TLS: &tls.Config{RootCAs: pool},
			Workers: 2, Rate: 50, NewConnections: true,
		}, func() {
			write(next)
			for _, ip := range ips {
				until(t, "the new certificate", func() error { _, err := m.handshake(ip, nextCA); return err })
			}
		})
	})
}

// datagramsAt asks a Gateway's UDP port, from outside and as pods. A strict pod behind it takes datagrams, as it does from
// everybody. Answers come from the Gateway's address.
func (m *mesh) datagramsAt(t *testing.T, ip netip.Addr) {
	t.Helper()
	for who, client := range map[string]*lab.Pod{"outside": m.outside, "plain/c": m.Pod("plain", "c"), "strict/alice": m.Pod("strict", "alice")} {
		for _, connected := range []bool{true, false} {
			until(t, fmt.Sprintf("datagrams from %s to %s, connected %t", who, ip, connected), func() error {
				pod, from, err := query(client.Do, ip, "?", connected)
				if err == nil && (pod != "strict/srv" || from != netip.AddrPortFrom(ip, 53)) {
					err = fmt.Errorf("%s answers, from %s", pod, from)
				}
				return err
			})
		}
	}
}

// handshake wants a certificate that ca signed.
func (m *mesh) handshake(ip netip.Addr, ca *x509.Certificate) (*tls.ConnectionState, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	raw, err := m.outside.Dial(ctx, "tcp", at(ip, 443))
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	c := tls.Client(raw, &tls.Config{ServerName: "shop.example", RootCAs: pool})
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	s := c.ConnectionState()
	return &s, nil
}

// certificate makes a Secret with a self-signed certificate for shop.example.
func certificate(t *testing.T, serial string) (secret string, ca *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes([]byte(serial)), DNSNames: []string{"shop.example"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: shop, namespace: strict}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: %s\n  tls.key: %s\n",
		text("CERTIFICATE", der), text("PRIVATE KEY", keyDER)), ca
}
