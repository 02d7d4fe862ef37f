package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/mtls"
)

const (
	// intermediateTTL is how long an intermediate and all that it signed may live; it signs for half of that.
	intermediateTTL = 48 * time.Hour
	// MaxTTL of an SVID: what is left of its intermediate when that is replaced.
	MaxTTL = intermediateTTL / 2
	// backdate makes a new certificate valid for peers whose clock is a little behind.
	backdate = 2 * time.Minute
)

// authority signs with an intermediate that only this process has: the roots' keys are used once in a day.
type authority struct {
	td  string
	id  model.Identity // of the service
	ttl time.Duration
	// names are DNS names of the service besides mtls.ServerName.
	names []string

	mu      sync.RWMutex
	roots   []*mtls.Root
	by      *mtls.Root // who signed the intermediate
	ca      *x509.Certificate
	key     *ecdsa.PrivateKey
	serving *tls.Certificate
}

func newAuthority(td, namespace string, ttl time.Duration) (*authority, error) {
	a := &authority{td: td, id: model.NewIdentity(td, namespace, Account), ttl: ttl}
	if _, _, err := mtls.ParseIdentity(td, a.id); err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	return a, nil
}

// update takes the roots, and makes a new intermediate when it is time or another root is to sign. published is the
// trust bundle as the cluster's nodes see it; a root that is not in it signs only where it is the first of all. It tells
// whether the bundle may have changed.
func (a *authority) update(roots []*mtls.Root, published string, now time.Time) (changed bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := string(mtls.BundlePEM(a.roots, now))
	a.roots = roots
	changed = before != string(mtls.BundlePEM(roots, now))
	known := slices.Clone(roots[:1])
	for _, r := range roots[1:] {
		if strings.Contains(published, string(mtls.BundlePEM([]*mtls.Root{r}, now))) {
			known = append(known, r)
		}
	}
	by, err := mtls.Signer(known, now)
	if err != nil {
		return changed, fmt.Errorf("CA: %w", err)
	}
	if a.by != nil && a.by.Cert.Equal(by.Cert) && now.Before(half(a.ca)) {
		return changed, nil
	}
	return changed, a.renew(by, now)
}

func half(c *x509.Certificate) time.Time { return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2) }

// renew makes the intermediate, and with it the certificate that the service shows.
func (a *authority) renew(by *mtls.Root, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca, err := certificate(&x509.Certificate{
		Subject: pkix.Name{Organization: []string{"Weft"}, CommonName: "intermediate"},
		URIs:    []*url.URL{{Scheme: "spiffe", Host: a.td}},
		// Its end is rounded by nobody: what it signs ends with it at the latest.
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(intermediateTTL), by.Cert.NotAfter),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, MaxPathLenZero: true,
	}, by.Cert, key.Public(), by.Key)
	if err != nil {
		return fmt.Errorf("CA: intermediate: %w", err)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := leaf(a.id, ca, now, intermediateTTL)
	template.DNSNames = append([]string{mtls.ServerName}, a.names...)
	serving, err := certificate(template, ca, own.Public(), key)
	if err != nil {
		return fmt.Errorf("CA: certificate of the service: %w", err)
	}
	a.by, a.ca, a.key = by, ca, key
	rootEnds.Set(float64(by.Cert.NotAfter.Unix()))
	intermediateEnds.Set(float64(ca.NotAfter.Unix()))
	a.serving = &tls.Certificate{Certificate: [][]byte{serving.Raw, ca.Raw}, PrivateKey: own, Leaf: serving}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// leaf is the form of all certificates that are no CA's: the SPIFFE ID is all that they say.
func leaf(id model.Identity, ca *x509.Certificate, now time.Time, ttl time.Duration) *x509.Certificate {
	uri, err := url.Parse(string(id))
	if err != nil {
		panic(err) // identities are checked before
	}
	return &x509.Certificate{
		URIs: []*url.URL{uri}, NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(ttl), ca.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func certificate(template, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer) (*x509.Certificate, error) {
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// sign gives a chain, leaf and intermediate, in DER.
func (a *authority) sign(id model.Identity, public *ecdsa.PublicKey, now time.Time) ([][]byte, error) {
	a.mu.RLock()
	ca, key := a.ca, a.key
	a.mu.RUnlock()
	if ca == nil {
		return nil, errNotReady
	}
	if !now.Before(ca.NotAfter) {
		return nil, fmt.Errorf("the CA's intermediate ended at %s and could not be renewed: see the controller's log", ca.NotAfter.Format(time.RFC3339))
	}
	cert, err := certificate(leaf(id, ca, now, a.ttl), ca, public, key)
	if err != nil {
		return nil, err
	}
	return [][]byte{cert.Raw, ca.Raw}, nil
}

// bundle holds all roots that are trusted, in PEM; empty before the first.
func (a *authority) bundle(now time.Time) string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return string(mtls.BundlePEM(a.roots, now))
}

func (a *authority) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			a.mu.RLock()
			defer a.mu.RUnlock()
			if a.serving == nil {
				return nil, errNotReady
			}
			return a.serving, nil
		},
	}
}
