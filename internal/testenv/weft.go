package testenv

import (
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// Weft builds the program of this tree with go build's flags, and returns its path. It goes with the test.
func Weft(t testing.TB, flags ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "weft")
	args := slices.Concat([]string{"build", "-o", bin}, flags, []string{"github.com/weft-mesh/weft/cmd/weft"})
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("build weft: %v\n%s", err, out)
	}
	return bin
}
