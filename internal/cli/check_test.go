package cli

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/check"
)

func TestPrintChecks(t *testing.T) {
	results := []check.Result{
		{Area: "machine", Name: "kernel", Found: "Linux 6.18.5"},
		{Area: "machine", Name: "CNI", Level: check.Warn, Found: "there is no /etc/cni/net.d", Remedy: "install one"},
		{Area: "cluster", Name: "Cilium", Level: check.Fail, Found: "two\nlines \x1b[31m", Remedy: "turn it off"},
	}
	for _, c := range []struct {
		file, format string
		results      []check.Result
		err          error
	}{
		{"check", "table", results, ErrUnhealthy}, {"check-json", "json", results, ErrUnhealthy}, {"check-good", "table", results[:2], nil},
	} {
		var b bytes.Buffer
		if err := printChecks(&b, &output{format: c.format}, c.results); !errors.Is(err, c.err) {
			t.Errorf("%s: error %v, want %v", c.file, err, c.err)
		}
		golden(t, filepath.Join("testdata", c.file+".txt"), b.String())
	}
}

// TestCheckOfACluster asks one that does not answer.
func TestCheckOfACluster(t *testing.T) {
	if out, err := run(t, "check", "--pre", "--kubeconfig", writeKubeconfig(t, "http://127.0.0.1:1")); !errors.Is(err, ErrUnhealthy) || !strings.Contains(out, "FAIL   API server") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := run(t, "check", "--pre", "--kubeconfig", filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "kubeconfig") {
		t.Errorf("a kubeconfig that is not there: %v", err)
	}
}
