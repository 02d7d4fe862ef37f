package gateway

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestExamples translates what newcomers are given: it must be accepted as it stands. The certificate of the Gateway's
// HTTPS listener is one that the reader makes.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../examples/*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	worlds := map[string]*world{}
	for _, f := range files {
		name := filepath.Base(filepath.Dir(f))
		if worlds[name] == nil {
			worlds[name] = newWorld(testConfig)
		}
		worlds[name].put(t, readObjects(t, f)...)
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
