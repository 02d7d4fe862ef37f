package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/weft-mesh/weft/internal/model"
)

// credentials are one identity's certificate and whom it trusts.
type credentials struct {
	certificate *tls.Certificate
	roots       *x509.CertPool
	trustDomain string
}

func parseCertificate(chain, key []byte) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, err
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// dialling is for a session with a peer that must have exactly this identity.
func (c credentials) dialling(peer model.Identity) *tls.Config {
	cfg := c.config()
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.certificate, nil }
	cfg.InsecureSkipVerify = true // names of hosts mean nothing here; VerifyConnection looks at the certificate
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		id, err := c.verify(s, x509.ExtKeyUsageServerAuth)
		if err == nil && id != peer {
			err = fmt.Errorf("the peer is %s, and %s was expected", id, peer)
		}
		return err
	}
	return cfg
}

// accepting is for sessions with any peer of the trust domain.
func (c credentials) accepting() *tls.Config {
	cfg := c.config()
	cfg.Certificates = []tls.Certificate{*c.certificate}
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := c.verify(s, x509.ExtKeyUsageClientAuth)
		return err
	}
	return cfg
}

func (c credentials) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol},
		// A resumed session would skip the check of the peer's certificate.
		SessionTicketsDisabled: true,
		// Frames fill records; the library would begin with small ones.
		DynamicRecordSizingDisabled: true,
	}
}

// maxChain bounds the certificates that a peer may show: its own, and those between that and a root. Each may cost a check of a
// signature, also where none of them is of the mesh: crypto/x509 tries a hundred, and with P-521 one takes milliseconds.
const maxChain = 4

// verify gives the SPIFFE ID of the peer's certificate, which must come from the roots and be for this end of a connection.
// See https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md#5-validation.
func (c credentials) verify(s tls.ConnectionState, end x509.ExtKeyUsage) (model.Identity, error) {
	if s.NegotiatedProtocol != protocol {
		return "", fmt.Errorf("the peer does not speak %s", protocol)
	}
	if len(s.PeerCertificates) == 0 {
		return "", errors.New("the peer has no certificate")
	}
	if n := len(s.PeerCertificates); n > maxChain {
		return "", fmt.Errorf("the peer shows a chain of %d certificates, of %d at most", n, maxChain)
	}
	leaf := s.PeerCertificates[0]
	between := x509.NewCertPool()
	for _, cert := range s.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: c.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{end}, CurrentTime: time.Now(),
	}); err != nil {
		return "", fmt.Errorf("the peer's certificate: %w", err)
	}
	return spiffeID(leaf, c.trustDomain)
}

func spiffeID(leaf *x509.Certificate, trustDomain string) (model.Identity, error) {
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return "", errors.New("the peer's certificate is an authority's")
	}
	if len(leaf.URIs) != 1 {
		return "", fmt.Errorf("the peer's certificate has %d URIs, and a SPIFFE ID is the only one", len(leaf.URIs))
	}
	// Policies compare the beginning of an ID, so /ns/bank/../tenant must not pass for one of bank.
	uri := encodedURI(leaf)
	id, err := spiffeid.FromString(uri)
	if err != nil {
		return "", fmt.Errorf("the peer is %.256q, which is no SPIFFE ID: %w", uri, err)
	}
	if id.TrustDomain().Name() != trustDomain || id.Path() == "" {
		return "", fmt.Errorf("the peer is %.256q, which is no workload of the trust domain %s", id, trustDomain)
	}
	return model.Identity(id.String()), nil
}

// encodedURI returns the first URI of a certificate as it is encoded, "" if there is none. leaf.URIs does not keep an empty fragment.
func encodedURI(leaf *x509.Certificate) string {
	const uri = 6 // of a GeneralName, RFC 5280 4.2.1.6
	for _, e := range leaf.Extensions {
		var names []asn1.RawValue
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &names); err != nil {
			continue
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == uri {
				return string(n.Bytes)
			}
		}
	}
	return ""
}

// peerIdentity is the identity of a peer whose handshake has succeeded.
func peerIdentity(s tls.ConnectionState) model.Identity {
	return model.Identity(s.PeerCertificates[0].URIs[0].String())
}
