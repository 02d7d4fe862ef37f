package flowexport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// authority issues certificates, as files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue("ca", &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// issue writes a certificate and its key to NAME.crt and NAME.key.
func (a *authority) issue(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{"crt": {Type: "CERTIFICATE", Bytes: der}, "key": {Type: "PRIVATE KEY", Bytes: encoded}} {
		if err := os.WriteFile(a.file(name+"."+file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issues makes a server's certificate for a name, and a client's.
func (a *authority) issues(server string) {
	a.issue("server", &x509.Certificate{DNSNames: []string{server}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	a.issue("client", &x509.Certificate{Subject: pkix.Name{CommonName: "agent"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// serveTLS starts a collector that asks for a client's certificate: with $OTEL_COLLECTOR that program, see make traces.
func (c *collector) serveTLS(a *authority) string {
	c.t.Helper()
	if program := os.Getenv("OTEL_COLLECTOR"); program != "" {
		return c.behind(program, fmt.Sprintf("{cert_file: %q, key_file: %q, client_ca_file: %q}", a.file("server.crt"), a.file("server.key"), a.file("ca.crt")))
	}
	own, err := tls.LoadX509KeyPair(a.file("server.crt"), a.file("server.key"))
	if err != nil {
		c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	c.options = []grpc.ServerOption{grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{own}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}))}
	at, _ := c.serve("")
	return at
}

// tls makes an Exporter by TLS.
func (w *world) tls(by TLS) *Exporter {
	w.t.Helper()
	to := theirs
	to.TLS = &by
	x, err := NewOTLP(w.cfg, to)
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

// TestOTLPByTLS: flows come to a collector whose certificate is of the CA and for the Service's name, and that asks for a client's
// certificate.
func TestOTLPByTLS(t *testing.T) {
	a := newAuthority(t, "ca")
	a.issues("otel.observability.svc")
	w := newWorld(t)
	c := &collector{t: t}
	w.at(c.serveTLS(a))
	w.run(w.tls(TLS{CA: a.file("ca.crt"), Cert: a.file("client.crt"), Key: a.file("client.key")}))
	w.add(0, 1)
	w.until("the record", func() bool { return c.count() == 1 })
}

// TestCollectorIsNotTrusted: no flow comes to a collector of another CA or name, nor without the certificate that it asks for. Each
// is said, and what is waited for comes when the files are right.
func TestCollectorIsNotTrusted(t *testing.T) {
	a, other := newAuthority(t, "ca"), newAuthority(t, "other")
	a.issues("collector.example")
	other.issues("collector.example")
	good := TLS{CA: a.file("ca.crt"), ServerName: "collector.example", Cert: a.file("client.crt"), Key: a.file("client.key")}
	for name, c := range map[string]struct {
		edit func(*TLS)
		says string
	}{
		"another CA":                     {func(x *TLS) { x.CA = other.file("ca.crt") }, "unknown authority"},
		"another name":                   {func(x *TLS) { x.ServerName = "" }, "otel.observability.svc"},
		"no client certificate":          {func(x *TLS) { x.Cert, x.Key = "", "" }, ""},
		"a client certificate of others": {func(x *TLS) { x.Cert, x.Key = other.file("client.crt"), other.file("client.key") }, ""},
		"no file":                        {func(x *TLS) { x.CA = a.file("none.crt") }, "none.crt: no such file"},
		"no certificate in the file":     {func(x *TLS) { x.CA = a.file("ca.key") }, "has no certificate in PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			end := &collector{t: t}
			w.at(end.serveTLS(a))
			by := good
			c.edit(&by)
			x := w.tls(by)
			w.run(x)
			w.add(0, 1)
			w.until("an error", func() bool { return w.row(x).Error != "" && strings.Contains(w.row(x).Error, c.says) })
			if end.count() > 0 {
				t.Error("a flow came")
			}
		})
	}
	t.Run("later", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		end := &collector{t: t}
		w.at(end.serveTLS(a))
		by := good
		by.CA = filepath.Join(t.TempDir(), "ca.crt")
		x := w.tls(by)
		w.run(x)
		w.add(0, 1)
		w.until("an error", func() bool { return strings.Contains(w.row(x).Error, "no such file") })
		text, err := os.ReadFile(good.CA)
		if err == nil {
			err = os.WriteFile(by.CA, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		w.until("the record", func() bool { return end.count() == 1 && w.row(x).Error == "" })
	})
}
