package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// Weft builds the program of this tree as make build does, so that what that compiled is used again, and returns its path.
// It goes with the test.
func Weft(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "weft")
	WeftTo(t, bin)
	return bin
}

// WeftTo is as Weft, and writes the program to bin.
func WeftTo(t testing.TB, bin string) {
	t.Helper()
	build(t, bin, "0", "-trimpath")
}

// WeftWithRace is as Weft, with the race detector.
func WeftWithRace(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "weft")
	build(t, bin, "1", "-race")
	return bin
}

func build(t testing.TB, bin, cgo string, flags ...string) {
	t.Helper()
	cmd := exec.Command("go", slices.Concat([]string{"build", "-o", bin}, flags, []string{"github.com/weft-mesh/weft/cmd/weft"})...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build weft: %v\n%s", err, out)
	}
}
