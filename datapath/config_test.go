package datapath

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/testenv"
)

// A machine that has just booted may have no bpffs, and nothing can be made in the sysfs below its place.
func TestBPFFSIsMountedWhereItBelongs(t *testing.T) {
	testenv.Root(t)
	root, err := CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread, in a mount namespace of its own, ends with the goroutine
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		for unix.Unmount(sysBPF, 0) == nil {
		}
		for _, dir := range []string{sysBPF + "/weft-config-test", filepath.Join(t.TempDir(), "pins")} {
			c := Config{CgroupRoot: root, PinDir: dir, ProxyCgroup: "weft-config-test"}
			for range 2 {
				if err := c.prepare(); err != nil {
					t.Errorf("%s: %v", dir, err)
				}
			}
			if ok, err := isBPFFS(filepath.Join(dir, mapDir)); !ok || err != nil {
				t.Errorf("%s is in no bpffs (%v)", dir, err)
			}
		}
	}()
	<-done
	if err := os.Remove(filepath.Join(root, "weft-config-test")); err != nil {
		t.Error(err)
	}
}
