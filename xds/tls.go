package xds

import (
	"regexp"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	certmapper "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_mappers/filter_state_override/v3"
	certselector "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/cert_selectors/on_demand_secret/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// HBONE is spoken in TLS 1.3 only, as by the other implementations of its wire format.
func meshTLS() *tls.TlsParameters {
	return &tls.TlsParameters{
		TlsMinimumProtocolVersion: tls.TlsParameters_TLSv1_3,
		TlsMaximumProtocolVersion: tls.TlsParameters_TLSv1_3,
	}
}

// upstreamTLS shows the SVID that the connection's filter state names, fetched when first needed or for the cluster if it is one of
// fetched, and accepts the peers that san says.
func upstreamTLS(san *matcher.StringMatcher, fetched ...string) *core.TransportSocket {
	return transportSocket("envoy.transport_sockets.tls", &tls.UpstreamTlsContext{
		// A resumed session would skip the check of the peer's certificate.
		MaxSessionKeys: number(0),
		CommonTlsContext: &tls.CommonTlsContext{
			TlsParams:     meshTLS(),
			AlpnProtocols: []string{"h2"},
			CustomTlsCertificateSelector: extension("envoy.tls.certificate_selectors.on_demand_secret", &certselector.Config{
				ConfigSource:        fromADS(),
				PrefetchSecretNames: fetched,
				CertificateMapper: extension("envoy.tls.upstream_certificate_mappers.filter_state_override",
					&certmapper.Config{DefaultValue: clusterNone}),
			}),
			ValidationContextType: peers(san),
		},
	})
}

// spiffePath is the path of a SPIFFE ID: segments of letters, digits, dots, dashes and underscores, none of them "." or "..". Policies
// compare the beginning of an ID, so /ns/bank/../tenant must not pass for one of bank.
// See https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#22-path.
const spiffePath = `(/([A-Za-z0-9_-]|\.[A-Za-z0-9_-]|\.\.[A-Za-z0-9._-])[A-Za-z0-9._-]*)+`

// downstreamTLS shows the SVID of a workload and wants a client certificate of the trust domain.
func downstreamTLS(id model.Identity, trustDomain string) *core.TransportSocket {
	return transportSocket("envoy.transport_sockets.tls", &tls.DownstreamTlsContext{
		RequireClientCertificate:         yes(),
		DisableStatefulSessionResumption: true,
		SessionTicketKeysType:            &tls.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		CommonTlsContext: &tls.CommonTlsContext{
			TlsParams:                      meshTLS(),
			AlpnProtocols:                  []string{"h2"},
			TlsCertificateSdsSecretConfigs: []*tls.SdsSecretConfig{{Name: serverPrefix + string(id), SdsConfig: fromADS()}},
			ValidationContextType:          peers(matching(spiffePrefix + regexp.QuoteMeta(trustDomain) + spiffePath)),
		},
	})
}

func peers(san *matcher.StringMatcher) *tls.CommonTlsContext_CombinedValidationContext {
	return &tls.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tls.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext: &tls.CertificateValidationContext{
				MatchTypedSubjectAltNames: []*tls.SubjectAltNameMatcher{{
					SanType: tls.SubjectAltNameMatcher_URI, Matcher: san,
				}},
			},
			ValidationContextSdsSecretConfig: &tls.SdsSecretConfig{Name: SecretRootCA, SdsConfig: fromADS()},
		},
	}
}
