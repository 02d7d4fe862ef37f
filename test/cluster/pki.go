package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs the cluster's certificates. It lives as long as the cluster's folder.
type authority struct {
	dir  string // its certificate is ca.crt there, beside those that it signed
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

// subject is what a certificate says of its holder; one without names is for clients only.
type subject struct {
	name   string   // common name: the user
	groups []string // organizations: the user's groups
	hosts  []string // names and addresses that it serves
}

// newAuthority makes an authority with a new key, and the folder.
func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &authority{dir: dir}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	t := template(pkix.Name{CommonName: "kubernetes-ca"})
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, a.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM, err := encodeKey(a.key)
	if err != nil {
		return nil, err
	}
	return a, errors.Join(os.WriteFile(a.file("ca.crt"), a.pem, 0o644), os.WriteFile(a.file("ca.key"), keyPEM, 0o600))
}

// openAuthority reads the authority of a folder, to sign more.
func openAuthority(dir string) (*authority, error) {
	a := &authority{dir: dir}
	var err error
	if a.pem, err = os.ReadFile(a.file("ca.crt")); err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(a.file("ca.key"))
	if err != nil {
		return nil, err
	}
	c, _ := pem.Decode(a.pem)
	k, _ := pem.Decode(keyPEM)
	if c == nil || k == nil {
		return nil, fmt.Errorf("%s: no certificate authority in PEM: take the cluster down and up again", dir)
	}
	if a.cert, err = x509.ParseCertificate(c.Bytes); err != nil {
		return nil, fmt.Errorf("%s: %w", a.file("ca.crt"), err)
	}
	if a.key, err = x509.ParseECPrivateKey(k.Bytes); err != nil {
		return nil, fmt.Errorf("%s: %w", a.file("ca.key"), err)
	}
	return a, nil
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// sign makes a key and its certificate, in PEM.
func (a *authority) sign(s subject) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := template(pkix.Name{CommonName: s.name, Organization: s.groups})
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, h := range s.hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	if len(s.hosts) > 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, k.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate of %s: %w", s.name, err)
	}
	key, err = encodeKey(k)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, err
}

// issue signs into the files NAME.crt and NAME.key.
func (a *authority) issue(name string, s subject) error {
	cert, key, err := a.sign(s)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(a.file(name+".crt"), cert, 0o644), os.WriteFile(a.file(name+".key"), key, 0o600))
}

// serviceAccountKeys writes sa.key, which signs the tokens of ServiceAccounts, and sa.pub, which proves them.
func (a *authority) serviceAccountKeys() error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := encodeKey(k)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return err
	}
	pub := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return errors.Join(os.WriteFile(a.file("sa.key"), key, 0o600), os.WriteFile(a.file("sa.pub"), pub, 0o644))
}

func encodeKey(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// template is valid from an hour ago, for clocks that differ, and for a year.
func template(name pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: name, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0)}
}
