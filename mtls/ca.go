package mtls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/weft-mesh/weft/internal/model"
)

// CA is the built-in certificate authority: ECDSA P-256, its roots kept in <state>/ca.
type CA struct {
	cfg   Config
	td    spiffeid.TrustDomain
	store rootStore

	mu    sync.Mutex
	roots []*root // by number
}

// OpenCA opens the CA in cfg.StateDir, and makes it when there is none. A CA that is there and cannot be read is an
// error and is left as it is: a new one in its place would end all trust in what the old one signed.
func OpenCA(cfg Config) (*CA, error) {
	cfg, td, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if cfg.StateDir == "" {
		return nil, errors.New("mtls: no state directory for the CA's key")
	}
	ca := &CA{cfg: cfg, td: td, store: rootStore{filepath.Join(cfg.StateDir, "ca")}}
	if err := ca.store.prepare(); err != nil {
		return nil, fmt.Errorf("mtls: open the CA: %w", err)
	}
	if ca.roots, err = ca.store.load(td); err != nil {
		return nil, fmt.Errorf("mtls: open the CA: %w", err)
	}
	if len(ca.roots) == 0 {
		if err := ca.addRoot(1); err != nil {
			return nil, fmt.Errorf("mtls: make the CA: %w", err)
		}
	}
	if _, err := signer(ca.roots, time.Now()); err != nil {
		return nil, fmt.Errorf("mtls: open the CA in %s: %w; check the clock, or remove the directory to start a new CA", ca.store.dir, err)
	}
	return ca, nil
}

// addRoot makes, stores and publishes a root. Another process may have stored that number first: its root is taken.
func (ca *CA) addRoot(number int) error {
	made, err := newRoot(number, ca.td, time.Now())
	if err != nil {
		return err
	}
	if err := ca.store.add(made); err != nil {
		return err
	}
	if ca.roots, err = ca.store.load(ca.td); err != nil {
		return err
	}
	for _, r := range ca.roots {
		if r.number == number {
			sum := sha256.Sum256(r.cert.Raw)
			ca.cfg.Log.Info("root certificate published", "trustDomain", ca.td.Name(), "number", number,
				"sha256", hex.EncodeToString(sum[:]), "notAfter", r.cert.NotAfter)
			return nil
		}
	}
	return fmt.Errorf("%s is gone right after it was written", ca.store.path(number))
}

// Bundle holds all roots that have not ended, the next one included.
func (ca *CA) Bundle() *model.Bundle {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return &model.Bundle{TrustDomain: ca.td.Name(), PEM: bundlePEM(ca.roots, time.Now())}
}

// Issue signs an SVID with a new P-256 key, of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
func (ca *CA) Issue(ctx context.Context, id model.Identity) (*model.SVID, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	spiffeID, _, _, err := parseIdentity(ca.td.Name(), id)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	by, err := ca.signer(now)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		URIs:                  []*url.URL{spiffeID.URL()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(ca.cfg.TTL),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if template.NotAfter.After(by.cert.NotAfter) {
		template.NotAfter = by.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		return nil, err
	}
	return newSVID(id, der, key)
}

// signer gives the root that signs now, and makes the next one in time. That may fail without harm for months, so it
// does not keep an SVID from being issued.
func (ca *CA) signer(now time.Time) (*root, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if needsNext(ca.roots, now) {
		if err := ca.addRoot(ca.roots[len(ca.roots)-1].number + 1); err != nil {
			ca.cfg.Log.Error("the next root certificate cannot be made; check the state directory", "error", err)
		}
	}
	return signer(ca.roots, now)
}

// newSVID checks a leaf by go-spiffe's rules before anybody gets it.
func newSVID(id model.Identity, der []byte, key *ecdsa.PrivateKey) (*model.SVID, error) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	svid, err := x509svid.ParseRaw(der, pkcs8)
	if err != nil {
		return nil, err
	}
	leaf := svid.Certificates[0]
	return &model.SVID{
		Identity:  id,
		ChainPEM:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		NotBefore: leaf.NotBefore,
		NotAfter:  leaf.NotAfter,
		Serial:    leaf.SerialNumber.Text(16),
	}, nil
}
