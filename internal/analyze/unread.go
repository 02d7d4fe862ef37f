package analyze

import (
	"fmt"
	"strings"
)

// CodeNotRead is of a document of a kind of another mesh.
const CodeNotRead = "NotRead"

// istio names what takes the place of Istio's kinds.
var istio = map[string]string{
	"AuthorizationPolicy": "an AuthorizationPolicy of weft.io/v1alpha1",
	"DestinationRule":     "an HTTPRoute for subsets (with a Service for each) and retries, a BackendTLSPolicy for TLS to backends",
	"EnvoyFilter":         "an HTTPRoute or GRPCRoute with filters",
	"Gateway":             "a Gateway of gateway.networking.k8s.io/v1",
	"PeerAuthentication":  "the label weft.io/mtls on the Namespace",
	"Sidecar":             "nothing: Weft has no sidecars",
	"VirtualService":      "an HTTPRoute, GRPCRoute, TLSRoute or TCPRoute",
}

// unread are the documents that another mesh reads: who wrote one expects that something comes of it. Those of other kinds
// (Deployments, Ingresses) are usual beside the mesh's.
func (m *Mesh) unread() []Finding {
	var out []Finding
	for ref, at := range m.files.Unread {
		if ref.Group != "istio.io" && !strings.HasSuffix(ref.Group, ".istio.io") {
			continue
		}
		message := fmt.Sprintf("kind %s of %s is Istio's, which Weft does not read", ref.Kind, ref.Group)
		if instead := istio[ref.Kind]; instead != "" {
			message += "; in its place write " + instead
		}
		out = append(out, Finding{Code: CodeNotRead, Severity: Warning, File: at.File, Line: at.Line, Object: ref, Message: message})
	}
	return out
}
