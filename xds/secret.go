package xds

import (
	stdtls "crypto/tls"
	"fmt"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// Secrets: the trust bundle, what the system trusts, SVIDs by their SPIFFE ID (with serverPrefix for listeners), TLS Secrets of Gateways as cert|<ns>/<name>,
// values of headers as header|<ns>/<gateway>/<header>. One that is missing
// is not served, and what needs it fails: no identity, no connection.
var secretKind = &kind{build: buildSecret, single: true}

func buildSecret(b *builder, name string) *built {
	switch name {
	case SecretRootCA:
		return rootCA(b)
	case SecretSystemCA:
		return systemCA(b)
	}
	if id := strings.TrimPrefix(name, serverPrefix); strings.HasPrefix(id, spiffePrefix) {
		svid, ok := b.st.SVIDs.Get(b.snap, id)
		if !ok || len(svid.ChainPEM) == 0 || len(svid.KeyPEM) == 0 {
			return nil
		}
		return certificate(name, svid.ChainPEM, svid.KeyPEM, serviceAccountRef(svid.Identity))
	}
	if port, ok := strings.CutPrefix(name, clientsPrefix); ok {
		return clientsCA(b, name, port)
	}
	if rest, ok := strings.CutPrefix(name, headerPrefix); ok {
		return exportHeader(b, name, rest)
	}
	if key, ok := strings.CutPrefix(name, certPrefix); ok {
		c, ok := b.st.Certificates.Get(b.snap, key)
		if !ok {
			return nil
		}
		return certificate(name, c.ChainPEM, c.KeyPEM, model.ObjectRef{Kind: "Secret", Namespace: c.Namespace, Name: c.Name})
	}
	return nil
}

func rootCA(b *builder) *built {
	bundle, ok := b.st.Bundles.Get(b.snap, b.cfg.TrustDomain)
	if !ok || len(bundle.PEM) == 0 {
		return nil
	}
	return validation(SecretRootCA, bundle.PEM)
}

// validation is a secret with the certificates by which a peer is checked.
func validation(name string, pem []byte) *built {
	return &built{message: &tls.Secret{
		Name: name,
		Type: &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{TrustedCa: inline(pem)}},
	}}
}

func certificate(name string, chain, key []byte, object model.ObjectRef) *built {
	b := &built{
		message: &tls.Secret{
			Name: name,
			Type: &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{
				CertificateChain: inline(chain),
				PrivateKey:       inline(key),
			}},
		},
		objects: []model.ObjectVersion{{ObjectRef: object}},
	}
	if _, err := stdtls.X509KeyPair(chain, key); err != nil {
		b.err = fmt.Errorf("certificate and key of %s: %w", object, err)
	}
	return b
}

func inline(b []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: b}}
}

func serviceAccountRef(id model.Identity) model.ObjectRef {
	return model.ObjectRef{
		Kind: "ServiceAccount", Namespace: id.Namespace(), Name: string(id)[strings.LastIndexByte(string(id), '/')+1:],
	}
}
