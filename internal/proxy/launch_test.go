package proxy

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/testenv"
)

// collectingLauncher is a launcher whose garbage is collected before it ends.
const collectingLauncher = "weft-collecting-launcher"

func init() {
	if os.Args[0] != collectingLauncher {
		return
	}
	if _, err := startGate(os.Args[1:]); err != nil {
		panic(err)
	}
	for range 5 { // a finalizer runs after the collection that found the garbage
		runtime.GC()
		time.Sleep(50 * time.Millisecond)
	}
	if _, err := os.Stat(os.Args[len(os.Args)-1]); !errors.Is(err, fs.ErrNotExist) {
		os.Exit(1)
	}
	os.Exit(0)
}

// Envoy asks for a signal when its parent ends. Where it runs before the launcher has ended, that is the launcher's end.
func TestEnvoyWaitsForTheLauncher(t *testing.T) {
	testenv.Root(t)
	dir := t.TempDir()
	started := filepath.Join(dir, "started")
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Stderr: os.Stderr,
		Args: []string{collectingLauncher, onHost, dir, "sh", "/bin/sh", "-c", `echo > "$0"`, started},
	}
	if err := cmd.Run(); err != nil {
		t.Errorf("the program ran while the launcher did: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(started); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the program does not run after the launcher's end")
		}
	}
}
