package gateway

import (
	"io/fs"
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
