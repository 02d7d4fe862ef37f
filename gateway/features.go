package gateway

import (
	"slices"

	"sigs.k8s.io/gateway-api/pkg/features"
)

// SupportedFeatures are the Gateway API's names for what is translated, sorted, as GatewayClass.status (GEP-2162) has
// them. Names of the mesh's own conformance profile are among them.
func SupportedFeatures() []string {
	out := []string{
		string(features.SupportGateway), string(features.SupportReferenceGrant), string(features.SupportHTTPRoute),
		string(features.SupportGRPCRoute), string(features.SupportMesh),

		string(features.SupportGatewayPort8080), string(features.SupportGatewayHTTPListenerIsolation),
		string(features.SupportGatewayStaticAddresses), string(features.SupportGatewayAddressEmpty),

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
		string(features.SupportHTTPRouteRetry), string(features.SupportHTTPRouteRetryBackendTimeout),
		string(features.SupportHTTPRouteRetryConnectionError),

		string(features.SupportGRPCRouteNamedRouteRule),

		string(features.SupportMeshClusterIPMatching), string(features.SupportMeshConsumerRoute),
		string(features.SupportMeshHTTPRouteRewritePath), string(features.SupportMeshHTTPRouteSchemeRedirect),
		string(features.SupportMeshHTTPRouteRedirectPort), string(features.SupportMeshHTTPRouteRedirectPath),
		string(features.SupportMeshHTTPRouteBackendRequestHeaderModification),
		string(features.SupportMeshHTTPRouteQueryParamMatching), string(features.SupportMeshHTTPRouteNamedRouteRule),
	}
	slices.Sort(out)
	return out
}
