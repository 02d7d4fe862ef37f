package xds

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// TestClientCertificateEnds: a client whose certificate was good once is not served when it has expired. A session that is
// resumed would skip the check.
func TestClientCertificateEnds(t *testing.T) {
	w := newWorld(t, Config{})
	backend(t, w, "web")
	clients := newTestCA(t)
	chain, key := w.ca.issue("", "of.gateway")
	put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: "cert", ChainPEM: chain, KeyPEM: key})
	port := freePort(t)
	table := model.GatewayTable("shop", "gw", port, "https")
	put(w, w.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{
		Route: model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: "r"}, Backends: []model.Backend{to("web", 1)},
	}}}}})
	put(w, w.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: []model.GatewayPort{{Port: port, TLS: true, Listeners: []model.GatewayListener{{
			Name: "https", RouteTable: table, Certificates: []string{"shop/cert"}, Clients: &model.ClientValidation{CA: string(clients.pem())},
		}}}},
	})
	w.envoy()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			cfg := &tls.Config{
				ServerName: "x.example", InsecureSkipVerify: true, MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1),
				Certificates: []tls.Certificate{clients.until(time.Now().Add(time.Hour))},
			}
			until(t, "a good certificate", func() error { return answered(t, port, cfg) })
			cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			end := time.Now().Add(4 * time.Second).Truncate(time.Second)
			cfg.Certificates = []tls.Certificate{clients.until(end)}
			if err := answered(t, port, cfg); err != nil {
				t.Fatalf("a certificate until %s: %v", end, err)
			}
			time.Sleep(time.Until(end.Add(1100 * time.Millisecond))) // certificates count whole seconds
			if answered(t, port, cfg) == nil {
				t.Error("a client is served whose certificate has expired")
			}
		})
	}
}

// until is a certificate for clients that expires then.
func (ca *testCA) until(end time.Time) tls.Certificate {
	ca.t.Helper()
	ca.n++
	key := newKey(ca.t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1 + ca.n), NotBefore: time.Now().Add(-time.Hour), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// answered reports whether a request on a new connection is answered with 200.
func answered(t *testing.T, port uint16, cfg *tls.Config) error {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", fmt.Sprint("127.0.0.1:", port), cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", r.StatusCode)
	}
	return err
}
