package mtls

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"
)

const (
	rootTTL = 3 * 365 * 24 * time.Hour
	// backdate makes a new certificate valid for peers whose clock is a little behind.
	backdate = 2 * time.Minute
	// publishLead is how long a new root is in the bundles before it signs: every node has learnt it by then.
	publishLead = 24 * time.Hour
)

// Root is a root certificate with its key.
type Root struct {
	Number int // in the name that it is kept under; a higher one is newer
	Cert   *x509.Certificate
	Key    crypto.Signer
}

// Signs is when the root begins to sign if there is an older one: it is published before.
func (r *Root) Signs() time.Time { return r.Cert.NotBefore.Add(backdate + publishLead) }

// NewRoot makes a self-signed CA certificate as X509-SVID.md, 3 and 4 ask: the ID of the trust domain td as its only
// URI, CA, keyCertSign, at most one intermediate below it.
func NewRoot(number int, td string, now time.Time) (*Root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Weft"}, CommonName: fmt.Sprintf("%s root %d", td, number)},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: td}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1,
	}
	if len(template.Subject.CommonName) > 64 { // ub-common-name, RFC 5280
		template.Subject.CommonName = fmt.Sprintf("root %d", number)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Root{number, cert, key}, nil
}

// Marshal gives one PEM text with certificate and key, so that the two cannot get apart.
func (r *Root) Marshal() ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(r.Key)
	if err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Cert.Raw})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...), nil
}

// ParseRoot is the inverse of Marshal. It accepts nothing else: one certificate, then its key, then the end.
func ParseRoot(number int, td string, data []byte) (*Root, error) {
	certBlock, rest := pem.Decode(data)
	if certBlock == nil || certBlock.Type != "CERTIFICATE" {
		return nil, errors.New("it does not begin with a PEM certificate")
	}
	keyBlock, rest := pem.Decode(rest)
	if keyBlock == nil || keyBlock.Type != "PRIVATE KEY" {
		return nil, errors.New("no PEM private key follows the certificate")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("something follows the private key")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("its certificate: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, errors.New("its private key cannot be read") // the parser's words may quote the key
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("its private key is not ECDSA")
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("its private key does not belong to its certificate")
	}
	if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("its certificate is not a CA's")
	}
	if !isOf(cert, td) {
		return nil, fmt.Errorf("its certificate is of %v, not of spiffe://%s", cert.URIs, td)
	}
	return &Root{number, cert, key}, nil
}

// BundlePEM joins the roots that have not ended.
func BundlePEM(roots []*Root, now time.Time) []byte {
	var out []byte
	for _, r := range roots {
		if now.Before(r.Cert.NotAfter) {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Cert.Raw})...)
		}
	}
	return out
}

// Signer is the newest root that has been published long enough; the oldest where none has, for it is the first.
func Signer(roots []*Root, now time.Time) (*Root, error) {
	var best *Root
	for _, r := range roots {
		if !now.Before(r.Cert.NotAfter) {
			continue
		}
		if best == nil || !now.Before(r.Signs()) {
			best = r
		}
	}
	if best == nil {
		return nil, errors.New("every root has ended")
	}
	return best, nil
}

// NeedsNext reports whether the newest root has lived two thirds of its life.
func NeedsNext(roots []*Root, now time.Time) bool {
	newest := roots[len(roots)-1].Cert
	life := newest.NotAfter.Sub(newest.NotBefore)
	return now.After(newest.NotBefore.Add(life * 2 / 3))
}
