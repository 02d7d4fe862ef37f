package setns_test

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/setns"
	"github.com/weft-mesh/weft/internal/testenv"
)

func TestDo(t *testing.T) {
	testenv.Root(t)
	for name, k := range map[string]struct {
		kind setns.Kind
		flag int
	}{"net": {setns.Network, unix.CLONE_NEWNET}, "cgroup": {setns.Cgroup, unix.CLONE_NEWCGROUP}} {
		t.Run(name, func(t *testing.T) {
			self := "/proc/thread-self/ns/" + name
			id := func() string { s, _ := os.Readlink(self); return s }
			home, other := id(), anotherNamespace(t, self, k.flag)
			want := errors.New("what f returns")
			err := k.kind.DoAt(other, func() error {
				if id() == home {
					t.Error("f ran at home")
				}
				out, err := exec.Command("readlink", "/proc/self/ns/"+name).Output()
				if err != nil || strings.TrimSpace(string(out)) == home {
					t.Errorf("a process that f starts is at home: %s, %v", out, err)
				}
				return want
			})
			if !errors.Is(err, want) {
				t.Errorf("error %v, want %v", err, want)
			}
			for range 50 {
				if id() != home {
					t.Fatal("a thread did not come back")
				}
				runtime.Gosched()
			}
			if err := k.kind.DoAt("/proc/self/no", nil); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("no namespace: %v", err)
			}
			if err := k.kind.DoAt(os.DevNull, nil); !errors.Is(err, unix.EINVAL) {
				t.Errorf("something else than a namespace: %v", err)
			}
		})
	}
}

// anotherNamespace returns the path of a new namespace, which lives until the test ends.
func anotherNamespace(t *testing.T, self string, flag int) string {
	t.Helper()
	path, end := make(chan string), make(chan struct{})
	t.Cleanup(func() { close(end) })
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := unix.Unshare(flag); err != nil {
			t.Error(err)
		}
		p, _ := os.Readlink("/proc/thread-self")
		path <- "/proc/" + p + strings.TrimPrefix(self, "/proc/thread-self")
		<-end
	}()
	return <-path
}
