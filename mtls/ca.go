package mtls

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/weft-mesh/weft/internal/model"
)

// CA is the built-in certificate authority: ECDSA P-256, its roots kept in <state>/ca.
type CA struct {
	cfg   Config
	td    spiffeid.TrustDomain
	store rootStore

	mu    sync.Mutex
	roots []*Root // by number
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
	if ca.roots, err = ca.store.load(td.Name()); err != nil {
		return nil, fmt.Errorf("mtls: open the CA: %w", err)
	}
	if len(ca.roots) == 0 {
		if err := ca.addRoot(1); err != nil {
			return nil, fmt.Errorf("mtls: make the CA: %w", err)
		}
	}
	if _, err := Signer(ca.roots, time.Now()); err != nil {
		return nil, fmt.Errorf("mtls: open the CA in %s: %w; check the clock, or remove the directory to start a new CA", ca.store.dir, err)
	}
	return ca, nil
}

// addRoot makes, stores and publishes a root. Another process may have stored that number first: its root is taken.
func (ca *CA) addRoot(number int) error {
	made, err := NewRoot(number, ca.td.Name(), time.Now())
	if err != nil {
		return err
	}
	if err := ca.store.add(made); err != nil {
		return err
	}
	if ca.roots, err = ca.store.load(ca.td.Name()); err != nil {
		return err
	}
	for _, r := range ca.roots {
		if r.Number == number {
			sum := sha256.Sum256(r.Cert.Raw)
			ca.cfg.Log.Info("root certificate published", "trustDomain", ca.td.Name(), "number", number,
				"sha256", hex.EncodeToString(sum[:]), "notAfter", r.Cert.NotAfter)
			return nil
		}
	}
	return fmt.Errorf("%s is gone right after it was written", ca.store.path(number))
}

// Bundle holds all roots that have not ended, the next one included.
func (ca *CA) Bundle() *model.Bundle {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return &model.Bundle{TrustDomain: ca.td.Name(), PEM: BundlePEM(ca.roots, time.Now())}
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
	if template.NotAfter.After(by.Cert.NotAfter) {
		template.NotAfter = by.Cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.Cert, key.Public(), by.Key)
	if err != nil {
		return nil, err
	}
	return newSVID(id, [][]byte{der}, key)
}

// Sign issues several.
func (ca *CA) Sign(ctx context.Context, ids []model.Identity) []Issued {
	out := make([]Issued, len(ids))
	for i, id := range ids {
		out[i].SVID, out[i].Err = ca.Issue(ctx, id)
	}
	return out
}

// Changed is nil: the CA depends on nothing but its files.
func (ca *CA) Changed() <-chan struct{} { return nil }

// signer gives the root that signs now, and makes the next one in time. That may fail without harm for months, so it
// does not keep an SVID from being issued.
func (ca *CA) signer(now time.Time) (*Root, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if NeedsNext(ca.roots, now) {
		if err := ca.addRoot(ca.roots[len(ca.roots)-1].Number + 1); err != nil {
			ca.cfg.Log.Error("the next root certificate cannot be made; check the state directory", "error", err)
		}
	}
	return Signer(ca.roots, now)
}
