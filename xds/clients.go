package xds

import (
	"strings"

	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/model"
)

// Certificates of a Gateway's clients. The authorities are a secret, so that a change of them ends no connection.

// clientsName is the name of the secret with the authorities of a port's clients: clients|<ns>/<gateway>/<port>.
func clientsName(g *model.Gateway, port uint16) string {
	return clientsPrefix + strings.TrimPrefix(model.GatewayTable(g.Namespace, g.Name, port, ""), gatewayPrefix)
}

// checkClients makes a listener ask for a certificate that one of the authorities has signed. With fallback whatever comes is
// taken.
func checkClients(c *tls.DownstreamTlsContext, secret string, fallback bool) {
	check := &tls.CertificateValidationContext{}
	if fallback {
		check.TrustChainVerification = tls.CertificateValidationContext_ACCEPT_UNTRUSTED
	}
	c.RequireClientCertificate = wrapperspb.Bool(!fallback)
	// A resumed session skips the check: who had a good certificate once would be served for days after it has expired.
	c.DisableStatefulSessionResumption = true
	c.SessionTicketKeysType = &tls.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true}
	c.CommonTlsContext.ValidationContextType = &tls.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tls.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         check,
			ValidationContextSdsSecretConfig: &tls.SdsSecretConfig{Name: secret, SdsConfig: fromADS()},
		},
	}
}

// clientsCA is the secret of a port <ns>/<gateway>/<port>.
func clientsCA(b *builder, name, port string) *built {
	n, ok := parseGatewayName(gatewayPrefix + port)
	if !ok || n.listener != "" || n.plain {
		return nil
	}
	g, ok := b.st.Gateways.Get(b.snap, n.key())
	if !ok {
		return nil
	}
	for _, p := range g.Ports {
		for _, l := range p.Listeners {
			if p.Port == n.port && l.Clients != nil && l.Clients.CA != "" {
				s := validation(name, []byte(l.Clients.CA))
				s.objects = []model.ObjectVersion{gatewayRef(g.Namespace, g.Name, g.Generation)}
				return s
			}
		}
	}
	return nil
}
