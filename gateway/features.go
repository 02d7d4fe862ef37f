package gateway

import (
	"slices"

	"sigs.k8s.io/gateway-api/pkg/features"
)

// ClassFeatures are the Gateway API's names for what is translated for Gateways, sorted, as the status of a
// GatewayClass (GEP-2162) has them.
func ClassFeatures() []string {
	return sorted([]string{
		string(features.SupportGateway), string(features.SupportReferenceGrant),
		string(features.SupportGatewayPort8080), string(features.SupportGatewayHTTPListenerIsolation),
		string(features.SupportGatewayHTTPSListenerDetectMisdirectedRequests),
		string(features.SupportGatewayStaticAddresses), string(features.SupportGatewayAddressEmpty),
		string(features.SupportGatewayInfrastructure), string(features.SupportListenerSet),
		string(features.SupportTLSRoute), string(features.SupportTLSRouteModeTerminate), string(features.SupportTLSRouteModeMixed),
		string(features.SupportTCPRoute), string(features.SupportUDPRoute),
		string(features.SupportGatewayFrontendClientCertificateValidation),
		string(features.SupportGatewayFrontendClientCertificateValidationInsecureFallback),
		string(features.SupportGatewayBackendClientCertificate), string(features.SupportGatewayRouteHostnameIntersectionPrecedence),
		string(features.SupportBackendTLSPolicy), string(features.SupportBackendTLSPolicySANValidation),
	}, routeFeatures())
}

// MeshFeatures are the names for what is translated for Services, sorted, as the status of an XMesh has them.
func MeshFeatures() []string {
	return sorted([]string{
		string(features.SupportMesh),

		string(features.SupportMeshClusterIPMatching), string(features.SupportMeshConsumerRoute),
		string(features.SupportMeshHTTPRouteRewritePath), string(features.SupportMeshHTTPRouteSchemeRedirect),
		string(features.SupportMeshHTTPRouteRedirectPort), string(features.SupportMeshHTTPRouteRedirectPath),
		string(features.SupportMeshHTTPRouteBackendRequestHeaderModification),
		string(features.SupportMeshHTTPRouteQueryParamMatching), string(features.SupportMeshHTTPRouteNamedRouteRule),
	}, routeFeatures())
}

// routeFeatures are those of routes, which are the same for both kinds of parents.
func routeFeatures() []string {
	return []string{
		string(features.SupportHTTPRoute), string(features.SupportHTTPRouteDestinationPortMatching),
		string(features.SupportHTTPRouteBackendRequestHeaderModification), string(features.SupportHTTPRouteQueryParamMatching),
		string(features.SupportHTTPRouteMethodMatching), string(features.SupportHTTPRouteResponseHeaderModification),
		string(features.SupportHTTPRoutePortRedirect), string(features.SupportHTTPRouteSchemeRedirect),
		string(features.SupportHTTPRoutePathRedirect), string(features.SupportHTTPRouteHostRewrite),
		string(features.SupportHTTPRoutePathRewrite), string(features.SupportHTTPRouteRequestMirror),
		string(features.SupportHTTPRouteRequestMultipleMirrors), string(features.SupportHTTPRouteRequestPercentageMirror),
		string(features.SupportHTTPRouteRequestTimeout), string(features.SupportHTTPRouteBackendTimeout),
		string(features.SupportHTTPRouteParentRefPort), string(features.SupportHTTPRouteNamedRouteRule),
		string(features.SupportHTTPRouteCORS), string(features.SupportHTTPRoute303RedirectStatusCode),
		string(features.SupportHTTPRoute307RedirectStatusCode), string(features.SupportHTTPRoute308RedirectStatusCode),

		string(features.SupportHTTPRouteBackendProtocolH2C), string(features.SupportHTTPRouteBackendProtocolWebSocket),
		string(features.SupportHTTPRouteRetryCodes), string(features.SupportHTTPRouteRetryConnectionError),
		string(features.SupportHTTPRouteBackendURLRewrite),

		string(features.SupportGRPCRoute), string(features.SupportGRPCRouteNamedRouteRule),
		string(features.SupportGRPCRouteRequestHeaderModifier),
	}
}

func sorted(lists ...[]string) []string {
	out := slices.Concat(lists...)
	slices.Sort(out)
	return out
}
