package gateway

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/examples"
)

// TestExamples translates what newcomers are given: it must be accepted as it stands. The certificate of the Gateway's
// HTTPS listener is one that the reader makes.
func TestExamples(t *testing.T) {
	worlds := map[string]*world{}
	err := fs.WalkDir(examples.FS, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, _, _ := strings.Cut(path, "/")
		if worlds[name] == nil {
			worlds[name] = newWorld(testConfig)
		}
		worlds[name].put(t, readObjects(t, filepath.Join("../examples", path))...)
		return nil
	})
	if err != nil || len(worlds) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for name, w := range worlds {
		w.Sync()
		for _, s := range w.statuses() {
			if p := problem(s); p != "" && !strings.Contains(p, "shop-certificate") {
				t.Errorf("%s: %s: %s", name, s.Key(), p)
			}
		}
	}
}

// TestReadme: the route that the README shows is the one of the example, which the tests apply.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(readme), "```yaml\n")
	block, _, _ = strings.Cut(block, "```")
	file, err := fs.ReadFile(examples.FS, "canary/route.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, route, _ := strings.Cut(string(file), "\n"); block != route { // after the comment
		t.Errorf("README.md shows\n%s\nand examples/canary/route.yaml is\n%s", block, route)
	}
}
