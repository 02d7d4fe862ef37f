package mtls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/weft-mesh/weft/internal/model"
)

// newSVID checks a chain, the leaf first, by go-spiffe's rules before anybody gets it.
func newSVID(id model.Identity, chain [][]byte, key *ecdsa.PrivateKey) (*model.SVID, error) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var text []byte
	for _, der := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return parseSVID(id, text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// parseSVID refuses a chain that is not of the identity, or not of the key.
func parseSVID(id model.Identity, chain, key []byte) (*model.SVID, error) {
	svid, err := x509svid.Parse(chain, key)
	if err != nil {
		return nil, err
	}
	if svid.ID.String() != string(id) {
		return nil, fmt.Errorf("the certificate is of %s, not of %s", svid.ID, id)
	}
	leaf := svid.Certificates[0]
	return &model.SVID{
		Identity: id, ChainPEM: chain, KeyPEM: key,
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Serial: leaf.SerialNumber.Text(16),
	}, nil
}

// verifySVID checks an SVID as a peer does.
func verifySVID(svid *model.SVID, bundle *model.Bundle, now time.Time) error {
	td, err := spiffeid.TrustDomainFromString(bundle.TrustDomain)
	if err != nil {
		return err
	}
	roots, err := x509bundle.Parse(td, bundle.PEM)
	if err != nil {
		return err
	}
	parsed, err := x509svid.Parse(svid.ChainPEM, svid.KeyPEM)
	if err != nil {
		return err
	}
	_, _, err = x509svid.Verify(parsed.Certificates, roots, x509svid.WithTime(now))
	return err
}

const (
	maxBundle = 256 << 10 // bytes
	maxRoots  = 16
)

// ParseBundle reads PEM certificates, all of them roots of a trust domain, and nothing else.
func ParseBundle(td string, text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxBundle {
		return nil, fmt.Errorf("trust bundle: longer than %d bytes", maxBundle)
	}
	var out []*x509.Certificate
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("trust bundle: it holds something else than PEM certificates")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return nil, fmt.Errorf("trust bundle: %w", err)
		case !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0:
			return nil, fmt.Errorf("trust bundle: %s is no certificate authority", cert.Subject)
		case !isOf(cert, td):
			return nil, fmt.Errorf("trust bundle: %s is of %v, not of spiffe://%s", cert.Subject, cert.URIs, td)
		case len(out) == maxRoots:
			return nil, fmt.Errorf("trust bundle: more than %d roots", maxRoots)
		}
		out, text = append(out, cert), rest
	}
	if len(out) == 0 {
		return nil, errors.New("trust bundle: it is empty")
	}
	return out, nil
}
