package xds

import (
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weft-mesh/weft/internal/model"
)

// TLS to the endpoints of a Service, by a BackendTLSPolicy. To an endpoint with an identity it is inside of HBONE, for the
// application ends it, and the mesh ends HBONE before.
//
// The certificates of the authority are in the cluster, not a secret of their own: a cluster that changes closes its pooled
// connections, so that none outlives the certificate that it was checked by.

const (
	// SecretSystemCA is the secret with the certificates that the node's system trusts.
	SecretSystemCA = "SYSTEMCA"
	// tlsConnectTimeout bounds TCP and the handshake, which takes the endpoint a signature.
	tlsConnectTimeout = 3 * time.Second
	matchTLS          = "tls" // key in endpoints' envoy.transport_socket_match metadata: the Service port
)

// backendTLS returns how the endpoints of a Service port are connected to; nil for in the clear.
func backendTLS(b *builder, portKey string) *model.BackendTLS {
	t, ok := b.st.BackendTLS.Get(b.snap, portKey)
	if !ok {
		return nil
	}
	return t
}

// refuses reports whether nothing may be sent: what is asked for cannot be done on this node.
func (cfg *Config) refuses(t *model.BackendTLS) bool {
	return t != nil && (t.Invalid || t.CA == "" && len(cfg.SystemRoots) == 0)
}

// originates makes all connections of a cluster TLS. Endpoints are shown the certificate of this key, "" for none.
func (cfg *Config) originates(c *cluster.Cluster, t *model.BackendTLS, certificate string) {
	if t == nil || cfg.refuses(t) {
		return // endpoints are missing then
	}
	c.ConnectTimeout = duration(tlsConnectTimeout)
	c.TransportSocketMatches = socketsOver(backendSocket(t, certificate))
}

// backendSocket speaks TLS and checks the chain and the names of the endpoint's certificate.
func backendSocket(t *model.BackendTLS, certificate string) *core.TransportSocket {
	check := &tls.CertificateValidationContext{}
	for _, n := range t.SANs {
		m := &tls.SubjectAltNameMatcher{SanType: tls.SubjectAltNameMatcher_DNS, Matcher: exactly(n.DNS)}
		if n.URI != "" {
			m = &tls.SubjectAltNameMatcher{SanType: tls.SubjectAltNameMatcher_URI, Matcher: exactly(n.URI)}
		}
		check.MatchTypedSubjectAltNames = append(check.MatchTypedSubjectAltNames, m)
	}
	// No ALPN: what the cluster speaks is what is offered.
	c := &tls.CommonTlsContext{TlsParams: &tls.TlsParameters{
		TlsMinimumProtocolVersion: tls.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tls.TlsParameters_TLSv1_3,
	}}
	if t.CA != "" {
		check.TrustedCa = inline([]byte(t.CA))
		c.ValidationContextType = &tls.CommonTlsContext_ValidationContext{ValidationContext: check}
	} else {
		c.ValidationContextType = &tls.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tls.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         check,
				ValidationContextSdsSecretConfig: &tls.SdsSecretConfig{Name: SecretSystemCA, SdsConfig: fromADS()},
			},
		}
	}
	if certificate != "" {
		c.TlsCertificateSdsSecretConfigs = []*tls.SdsSecretConfig{{Name: certPrefix + certificate, SdsConfig: fromADS()}}
	}
	return transportSocket("envoy.transport_sockets.tls", &tls.UpstreamTlsContext{
		Sni:              t.ServerName,
		MaxSessionKeys:   number(0), // a resumed session would skip the check of the certificate
		CommonTlsContext: c,
	})
}

// systemCA is the secret with what the node's system trusts.
func systemCA(b *builder) *built {
	if len(b.cfg.SystemRoots) == 0 {
		return nil
	}
	return validation(SecretSystemCA, b.cfg.SystemRoots)
}

// tlsMatches adds the sockets of the backends of a cluster with several, which endpoints choose by metadata.
func (cfg *Config) tlsMatches(c *cluster.Cluster, backends []*model.BackendTLS, certificate string) {
	var own []*cluster.Cluster_TransportSocketMatch
	seen := map[string]bool{}
	for _, t := range backends {
		if t == nil || cfg.refuses(t) || seen[t.Key()] {
			continue
		}
		seen[t.Key()] = true
		for _, m := range cfg.socketsOverTunnel(backendSocket(t, certificate)) {
			m.Name += "/" + t.Key()
			m.Match.Fields[matchTLS] = structpb.NewStringValue(t.Key())
			own = append(own, m)
		}
	}
	if len(own) > 0 {
		c.ConnectTimeout = duration(tlsConnectTimeout)
		c.TransportSocketMatches = append(own, c.TransportSocketMatches...)
	}
}

// choosesTLS makes an endpoint take the socket of a Service port in a cluster with several.
func choosesTLS(e *endpoint.LbEndpoint, t *model.BackendTLS) {
	if e.Metadata == nil {
		e.Metadata = &core.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
	}
	m := e.Metadata.FilterMetadata[metaMatch]
	if m == nil {
		m = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		e.Metadata.FilterMetadata[metaMatch] = m
	}
	m.Fields[matchTLS] = structpb.NewStringValue(t.Key())
}
