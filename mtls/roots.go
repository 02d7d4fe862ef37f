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

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	rootTTL = 3 * 365 * 24 * time.Hour
	// backdate makes a new certificate valid for peers whose clock is a little behind.
	backdate = 2 * time.Minute
	// publishLead is how long a new root is in the bundles before it signs: every node has learnt it by then.
	publishLead = 24 * time.Hour
)

// root is a CA certificate with its key.
type root struct {
	number int // in the file's name; a higher one is newer
	cert   *x509.Certificate
	key    crypto.Signer
}

// created is when the root was made, up to what the certificate tells.
func (r *root) created() time.Time { return r.cert.NotBefore.Add(backdate) }

// newRoot makes a self-signed CA certificate as X509-SVID.md, 3 and 4 ask: the trust domain's ID as its only URI, CA,
// keyCertSign, no chain below it.
func newRoot(number int, td spiffeid.TrustDomain, now time.Time) (*root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"Weft"}, CommonName: fmt.Sprintf("%s root %d", td.Name(), number)},
		URIs:                  []*url.URL{td.ID().URL()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
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
	return &root{number, cert, key}, nil
}

// marshal gives one PEM file with certificate and key, so that the two cannot get apart.
func (r *root) marshal() ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(r.key)
	if err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.cert.Raw})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...), nil
}

// parseRoot is the inverse of marshal. It accepts nothing else: one certificate, then its key, then the end.
func parseRoot(number int, td spiffeid.TrustDomain, data []byte) (*root, error) {
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
	if len(cert.URIs) != 1 || cert.URIs[0].String() != td.IDString() {
		return nil, fmt.Errorf("its certificate is of %v, not of %s", cert.URIs, td.IDString())
	}
	return &root{number, cert, key}, nil
}

// bundlePEM joins the roots that have not ended.
func bundlePEM(roots []*root, now time.Time) []byte {
	var out []byte
	for _, r := range roots {
		if now.Before(r.cert.NotAfter) {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.cert.Raw})...)
		}
	}
	return out
}

// signer is the newest root that has been published long enough; the oldest where none has, for it is the first.
func signer(roots []*root, now time.Time) (*root, error) {
	var best *root
	for _, r := range roots {
		if !now.Before(r.cert.NotAfter) {
			continue
		}
		if best == nil || !now.Before(r.created().Add(publishLead)) {
			best = r
		}
	}
	if best == nil {
		return nil, errors.New("every root has ended")
	}
	return best, nil
}

// needsNext tells whether the newest root has lived two thirds of its life.
func needsNext(roots []*root, now time.Time) bool {
	newest := roots[len(roots)-1].cert
	life := newest.NotAfter.Sub(newest.NotBefore)
	return now.After(newest.NotBefore.Add(life * 2 / 3))
}
