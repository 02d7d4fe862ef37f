package gateway

import (
	"slices"
	"strings"

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

// needs says with which fields of which kind a feature is asked for, as crds.HasField has it; "httproutes" alone is the kind.
// Features without an entry change how fields that all releases have are understood.
var needs = map[features.FeatureName]string{
	features.SupportReferenceGrant:        "referencegrants",
	features.SupportGatewayInfrastructure: "gateways spec.infrastructure",
	features.SupportListenerSet:           "listenersets",
	features.SupportTLSRoute:              "tlsroutes", features.SupportTLSRouteModeTerminate: "tlsroutes", features.SupportTLSRouteModeMixed: "tlsroutes",
	features.SupportTCPRoute: "tcproutes", features.SupportUDPRoute: "udproutes",
	features.SupportGatewayFrontendClientCertificateValidation:                 "gateways spec.tls.frontend",
	features.SupportGatewayFrontendClientCertificateValidationInsecureFallback: "gateways spec.tls.frontend.default.validation.mode",
	features.SupportGatewayBackendClientCertificate:                            "gateways spec.tls.backend",
	features.SupportBackendTLSPolicy:                                           "backendtlspolicies",
	features.SupportBackendTLSPolicySANValidation:                              "backendtlspolicies spec.validation.subjectAltNames",

	features.SupportHTTPRoute:                        "httproutes",
	features.SupportHTTPRouteCORS:                    "httproutes spec.rules.filters.cors",
	features.SupportHTTPRouteRequestPercentageMirror: "httproutes spec.rules.filters.requestMirror.percent",
	features.SupportHTTPRoute303RedirectStatusCode:   "httproutes spec.rules.filters.requestRedirect.statusCode=303",
	features.SupportHTTPRoute307RedirectStatusCode:   "httproutes spec.rules.filters.requestRedirect.statusCode=307",
	features.SupportHTTPRoute308RedirectStatusCode:   "httproutes spec.rules.filters.requestRedirect.statusCode=308",
	features.SupportHTTPRouteNamedRouteRule:          "httproutes spec.rules.name",
	features.SupportMeshHTTPRouteNamedRouteRule:      "httproutes spec.rules.name",
	features.SupportHTTPRouteRequestTimeout:          "httproutes spec.rules.timeouts.request",
	features.SupportHTTPRouteBackendTimeout:          "httproutes spec.rules.timeouts.backendRequest",
	features.SupportHTTPRouteRetryCodes:              "httproutes spec.rules.retry.codes",
	features.SupportHTTPRouteRetryConnectionError:    "httproutes spec.rules.retry",

	features.SupportGRPCRoute: "grpcroutes", features.SupportGRPCRouteRequestHeaderModifier: "grpcroutes",
	features.SupportGRPCRouteNamedRouteRule: "grpcroutes spec.rules.name",
}

// Known returns those of the features for which the CRDs that are installed have the fields. has reports whether the kind of
// a plural name has a field.
func Known(names []string, has func(plural, path string) bool) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		need, ok := needs[features.FeatureName(name)]
		plural, path, _ := strings.Cut(need, " ")
		return ok && !has(plural, path)
	})
}

func sorted(lists ...[]string) []string {
	out := slices.Concat(lists...)
	slices.Sort(out)
	return out
}
