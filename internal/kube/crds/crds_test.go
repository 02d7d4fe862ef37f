package crds

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestSchemasAreThoseOfTheModule fails when go.mod names another release of the Gateway API than the one that the
// schemas were taken from; go generate takes them anew.
func TestSchemasAreThoseOfTheModule(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("go", "run", "./gen", dir).CombinedOutput(); err != nil {
		t.Fatalf("gen: %v\n%s", err, out)
	}
	names, err := filepath.Glob("*.json")
	if err != nil || len(names) == 0 {
		t.Fatal("no schemas", err)
	}
	for _, name := range names {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, _ := Files.ReadFile(name); !bytes.Equal(got, want) {
			t.Errorf("%s is not what go generate makes", name)
		}
	}
}
