package gateway

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/gateway-api/pkg/features"

	"github.com/weft-mesh/weft/internal/kube/crds"
)

// TestFeaturesAreSets: the API server refuses a status that names a feature twice.
func TestFeaturesAreSets(t *testing.T) {
	for name, list := range map[string][]string{"gateway": ClassFeatures(), "mesh": MeshFeatures()} {
		if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("%s: not sorted, or a name comes twice: %v", name, list)
		}
	}
}

// schemas are those of the release that Weft is built with, by plural name.
func schemas(t *testing.T) map[string]*apiextensionsv1.JSONSchemaProps {
	t.Helper()
	files, err := crds.Files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*apiextensionsv1.JSONSchemaProps{}
	for _, f := range files {
		text, err := crds.Files.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		var crd struct {
			Schema *apiextensionsv1.JSONSchemaProps `json:"schema"`
		}
		if err := json.Unmarshal(text, &crd); err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(f.Name(), ".json")] = crd.Schema
	}
	return out
}

func TestKnown(t *testing.T) {
	installed := schemas(t)
	has := func(plural, path string) bool { return crds.HasField(installed[plural], path) }
	all := slices.Concat(ClassFeatures(), MeshFeatures())
	if diff := cmp.Diff(all, Known(all, has)); diff != "" {
		t.Errorf("of this release's features (-want +got):\n%s", diff)
	}
	for name := range needs {
		if !slices.Contains(all, string(name)) {
			t.Errorf("%s needs a field and is not declared", name)
		}
	}
	unknown := func() []string {
		known := Known(all, has)
		out := map[string]bool{}
		for _, f := range all {
			if !slices.Contains(known, f) {
				out[f] = true
			}
		}
		return slices.Sorted(maps.Keys(out))
	}

	// CRDs of an older release, or of the standard channel.
	rule := installed["httproutes"].Properties["spec"].Properties["rules"].Items.Schema
	delete(rule.Properties, "retry")
	redirect := rule.Properties["filters"].Items.Schema.Properties["requestRedirect"]
	redirect.Properties["statusCode"] = apiextensionsv1.JSONSchemaProps{Enum: []apiextensionsv1.JSON{{Raw: []byte("301")}, {Raw: []byte("302")}}}
	delete(installed, "listenersets")
	want := []string{
		string(features.SupportHTTPRoute303RedirectStatusCode), string(features.SupportHTTPRoute307RedirectStatusCode),
		string(features.SupportHTTPRoute308RedirectStatusCode), string(features.SupportHTTPRouteRetryCodes),
		string(features.SupportHTTPRouteRetryConnectionError), string(features.SupportListenerSet),
	}
	if diff := cmp.Diff(want, unknown()); diff != "" {
		t.Errorf("not known to older CRDs (-want +got):\n%s", diff)
	}
}
