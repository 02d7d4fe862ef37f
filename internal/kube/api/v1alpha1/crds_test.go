package v1alpha1_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

const installed = "../../../../install/crds"

// TestCRDsAreThoseOfTheTypes fails when install/crds is not what go generate makes of the types.
func TestCRDsAreThoseOfTheTypes(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	generator := regexp.MustCompile(`sigs\.k8s\.io/controller-tools/cmd/controller-gen@\S+`).Find(doc)
	if generator == nil {
		t.Fatal("doc.go names no controller-gen")
	}
	dir := t.TempDir()
	if out, err := exec.Command("go", "run", string(generator), "crd", "paths=.", "output:crd:dir="+dir).CombinedOutput(); err != nil {
		t.Fatalf("controller-gen: %v\n%s", err, out)
	}
	made, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(made) == 0 {
		t.Fatal("no CRDs were made", err)
	}
	there, err := filepath.Glob(filepath.Join(installed, "weft.io_*.yaml"))
	if err != nil || len(there) != len(made) {
		t.Errorf("%d CRDs in install/crds, %d of the types: %v", len(there), len(made), err)
	}
	for _, name := range made {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(installed, filepath.Base(name)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what go generate makes (%v)", filepath.Base(name), err)
		}
	}
}
