package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// Weft returns a copy of the program of this tree, which goes with the test. It is built as make build does, unless
// $WEFT_BINARY names one: make has just built it for all packages.
func Weft(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "weft")
	WeftTo(t, bin)
	return bin
}

// WeftTo is as Weft, and writes the program to bin.
func WeftTo(t testing.TB, bin string) {
	t.Helper()
	if !built(t, "WEFT_BINARY", bin) {
		build(t, bin, "0", "-trimpath")
	}
}

// WeftWithRace is as Weft, with the race detector, and $WEFT_RACE_BINARY.
func WeftWithRace(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "weft")
	if !built(t, "WEFT_RACE_BINARY", bin) {
		build(t, bin, "1", "-race")
	}
	return bin
}

// built copies the program that a variable names, and reports whether it names one.
func built(t testing.TB, variable, bin string) bool {
	t.Helper()
	from := os.Getenv(variable)
	if from == "" {
		return false
	}
	if os.Link(from, bin) == nil {
		return true
	}
	b, err := os.ReadFile(from) // of another file system
	if err == nil {
		err = os.WriteFile(bin, b, 0o700)
	}
	if err != nil {
		t.Fatalf("$%s: %v", variable, err)
	}
	return true
}

func build(t testing.TB, bin, cgo string, flags ...string) {
	t.Helper()
	cmd := exec.Command("go", slices.Concat([]string{"build", "-o", bin}, flags, []string{"github.com/weft-mesh/weft/cmd/weft"})...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build weft: %v\n%s", err, out)
	}
}
