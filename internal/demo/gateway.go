package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/model"
)

// gateway calls the Gateway from outside the pods.
func (d *demo) gateway(ctx context.Context) {
	d.section("4  A Gateway, from outside (examples/gateway)")
	addr := d.gatewayAddress()
	if !addr.IsValid() {
		d.line(false, "the Gateway's address", "none: weft config status --run %s says why", d.node.RunDir)
		return
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(d.ca)
	for _, from := range []struct {
		name string
		dial load.DialFunc
	}{{"from another machine", d.outside.Dial}, {"from this host", (&net.Dialer{}).DialContext}} {
		for _, scheme := range []string{"http", "https"} {
			name := strings.ToUpper(scheme) + " " + from.name
			r, err := load.Run(ctx, load.Config{
				URL: scheme + "://" + addr.String(), Host: "shop.example", Dial: from.dial,
				TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, Requests: 100, Workers: 4, Timeout: 2 * time.Second, Duration: 10 * time.Second,
			})
			if err != nil {
				d.fail(name, err)
				continue
			}
			d.line(r.Failed == 0 && r.Backends["shop"] == 100, name, "%d of 100 answered by shop at %s%s", r.Backends["shop"], addr, why(r))
		}
	}
	r, err := load.Run(ctx, load.Config{URL: "http://" + addr.String(), Host: "other.example", Dial: d.outside.Dial, Requests: 1})
	if err != nil {
		d.fail("a host that no route takes", err)
		return
	}
	d.line(r.Statuses[404] == 1, "a host that no route takes", "%s", strings.Join(r.Failures(), ", "))
}

func (d *demo) gatewayAddress() netip.Addr {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	list, err := api.List[*model.Gateway](ctx, d.node.API, api.Gateways, "gateway", "edge")
	if err != nil || len(list) == 0 || len(list[0].Addresses) == 0 {
		return netip.Addr{}
	}
	return list[0].Addresses[0]
}

// gatewayCertificate makes a key and a self-signed certificate for a host, as a Secret and as PEM to trust.
func gatewayCertificate(namespace, name, host string) (secret, ca []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return fmt.Appendf(nil, `# Made by weft demo for this run.
apiVersion: v1
kind: Secret
metadata:
  name: %s
  namespace: %s
type: kubernetes.io/tls
data:
  tls.crt: %s
  tls.key: %s
`, name, namespace, base64.StdEncoding.EncodeToString(ca), base64.StdEncoding.EncodeToString(keyPEM)), ca, nil
}
