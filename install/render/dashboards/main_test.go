package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFresh tells when a file of the chart is not what the boards give. What Prometheus answers to their queries is
// tested on a cluster, in test/e2e.
func TestFresh(t *testing.T) {
	dir := "../../chart/dashboards"
	for _, b := range boards {
		want, err := render(b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, b.name+".json"))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s.json is stale (%v): make install-manifest", b.name, err)
		}
	}
	if got, err := os.ReadFile("../../../docs/dashboards.md"); err != nil || string(got) != string(reference()) {
		t.Errorf("docs/dashboards.md is stale (%v): make install-manifest", err)
	}
	if files, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(files) != len(boards) {
		t.Errorf("%d boards, but %s (%v)", len(boards), strings.Join(files, " "), err)
	}
}
