package crds

import (
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// Versions returns the versions of a kind of the Gateway API that are read, the first one that is served. All have the shape of the
// first: those after it are how releases from v1.4 on, or their experimental channel, serve a kind that was not v1 yet.
func Versions(kind string) []string {
	switch kind {
	case "Gateway", "GatewayClass", "HTTPRoute", "ReferenceGrant":
		return []string{"v1", "v1beta1"}
	case "TLSRoute":
		return []string{"v1", "v1alpha3", "v1alpha2"}
	case "TCPRoute", "UDPRoute":
		return []string{"v1", "v1alpha2"}
	case "XMesh", "XTelemetryPolicy":
		return []string{"v1alpha1"}
	}
	return []string{"v1"}
}

// SchemaOf returns the schema of the version that is read of a kind of the Gateway API; nil if its CRD serves none.
func SchemaOf(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.JSONSchemaProps {
	for _, want := range Versions(crd.Spec.Names.Kind) {
		for _, v := range crd.Spec.Versions {
			if v.Name == want && v.Served && v.Schema != nil {
				return v.Schema.OpenAPIV3Schema
			}
		}
	}
	return nil
}

// HasField reports whether objects of a schema have a field. The path names the fields from the object down, as in
// spec.rules.filters.cors; the elements of lists have no name. With a value at the end, as in spec.rules.code=303, it must be
// one of those that the field may have. Every schema has the path "", nil has none.
func HasField(s *apiextensionsv1.JSONSchemaProps, path string) bool {
	if s == nil {
		return false
	}
	path, value, valued := strings.Cut(path, "=")
	for name := range strings.SplitSeq(path, ".") {
		if name == "" {
			continue
		}
		for s.Items != nil && s.Items.Schema != nil {
			s = s.Items.Schema
		}
		field, ok := s.Properties[name]
		if !ok {
			return false
		}
		s = &field
	}
	return !valued || slices.ContainsFunc(s.Enum, func(j apiextensionsv1.JSON) bool { return strings.Trim(string(j.Raw), `"`) == value })
}
