package gateway

import (
	"slices"
	"testing"
)

// TestFeaturesAreSets: the API server refuses a status that names a feature twice.
func TestFeaturesAreSets(t *testing.T) {
	for name, list := range map[string][]string{"gateway": ClassFeatures(), "mesh": MeshFeatures()} {
		if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("%s: not sorted, or a name comes twice: %v", name, list)
		}
	}
}
