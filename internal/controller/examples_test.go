package controller

import (
	"io/fs"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/weft-mesh/weft/examples"
)

// TestExamplesLeaveDefaultObjects: kubectl delete -f of an example's folder must not remove what Gateways of others need. kubectl
// does not read folders within it.
func TestExamplesLeaveDefaultObjects(t *testing.T) {
	files, err := fs.Glob(examples.FS, "*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		text, err := fs.ReadFile(examples.FS, file)
		if err != nil {
			t.Fatal(err)
		}
		for _, doc := range strings.Split(string(text), "\n---\n") {
			var o unstructured.Unstructured
			if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			for _, d := range defaultObjects() {
				if o.GroupVersionKind().GroupKind() == d.gk && o.GetName() == defaultName {
					t.Errorf("%s has %s %s, which Weft makes for the whole cluster", file, d.gk.Kind, defaultName)
				}
			}
		}
	}
}
