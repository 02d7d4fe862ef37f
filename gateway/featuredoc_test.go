package gateway

import (
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/gateway-api/pkg/features"
)

// TestFeaturesInTheDocs: docs/gateway-api.md names each feature of the Gateway API once, where it belongs.
func TestFeaturesInTheDocs(t *testing.T) {
	text, err := os.ReadFile("../docs/gateway-api.md")
	if err != nil {
		t.Fatal(err)
	}
	supported, refused, ok := strings.Cut(string(text), "\nNot supported")
	refused, _, found := strings.Cut(refused, "\n## ")
	if !ok || !found {
		t.Fatal("docs/gateway-api.md has no list of what is not supported")
	}
	ours := slices.Concat(ClassFeatures(), MeshFeatures())
	for f := range features.AllFeatures {
		name := "`" + string(f.Name) + "`"
		if f.Channel == features.FeatureChannelExperimental && slices.Contains(ours, string(f.Name)) {
			name += " (experimental)"
		}
		there, elsewhere := supported, refused
		if !slices.Contains(ours, string(f.Name)) {
			there, elsewhere = refused, supported
		}
		if strings.Count(there, name) != 1 || strings.Contains(elsewhere, name) {
			t.Errorf("docs/gateway-api.md: %s is missing, or in the wrong place", name)
		}
	}
}
