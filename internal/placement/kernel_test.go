package placement

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/testenv"
)

// newUID returns a pod's UID that no other run on this machine has: the kernel is searched for it.
func newUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// TestFindOnTheKernel looks for processes in real cgroups and network namespaces, named as kubelets name them.
func TestFindOnTheKernel(t *testing.T) {
	l := testenv.Lab(t)
	root, err := lab.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	uidA, uidB, uidC := newUID(), newUID(), newUID()
	systemd := "kubepods-burstable-pod" + strings.ReplaceAll(uidB, "-", "_") + ".slice"
	want := map[string]Found{}
	for name, p := range map[string]struct{ uid, pod, inside string }{
		"a": {uidA, "kubepods/besteffort/pod" + uidA, "0123456789ab"},
		"b": {uidB, "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-" + systemd, "cri-containerd-0123456789ab.scope"},
	} {
		pod := testenv.Pod(t, l, name)
		want[p.uid] = Found{NetNS: pod.NetNSName, Cgroup: filepath.Join(l.Prefix, p.pod)}
		for _, within := range []string{"1-" + p.inside, "2-" + p.inside} { // sandbox and container
			pod.Cgroup = filepath.Join(l.Prefix, p.pod, within)
			if err := os.MkdirAll(filepath.Join(root, pod.Cgroup), 0o755); err != nil {
				t.Fatal(err)
			}
			start(t, pod)
		}
	}
	stray := testenv.Pod(t, l, "stray") // a process of pod a that went into a namespace that is not its own
	stray.Cgroup = filepath.Join(want[uidA].Cgroup, "1-0123456789ab")
	if err := os.MkdirAll(filepath.Join(root, stray.Cgroup), 0o755); err != nil {
		t.Fatal(err)
	}
	start(t, stray)

	s := Scanner{CgroupRoot: root, NetNSDir: "/run/netns", Proc: "/proc"}
	got, err := s.Find(map[string]bool{uidA: true, uidB: true, uidC: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("found %v", got)
	}
	for uid, f := range want {
		if got[uid].ID == (nsID{}) || got[uid].NetNS != f.NetNS || got[uid].Cgroup != f.Cgroup {
			t.Errorf("pod %s: found %+v, want %+v", uid, got[uid], f)
		}
	}
}

// TestMountsAreReported: a network namespace that gets or loses its name is a change of the mounts.
func TestMountsAreReported(t *testing.T) {
	l := testenv.Lab(t)
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan struct{}, 1), make(chan error, 1)
	go func() { done <- pollMounts(ctx, time.Hour, changed) }()
	for _, what := range []string{"a", "b"} {
		pod := testenv.Pod(t, l, what)
		<-changed
		if err := unix.Unmount(pod.NetNS, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(pod.NetNS); err != nil {
			t.Fatal(err)
		}
		<-changed
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestAHiddenNameIsExplained hides the name of a namespace as a mount over /run/netns does.
func TestAHiddenNameIsExplained(t *testing.T) {
	l := testenv.Lab(t)
	root, err := lab.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	pod, uidA := testenv.Pod(t, l, "a"), newUID()
	pod.Cgroup = filepath.Join(l.Prefix, "kubepods/pod"+uidA)
	if err := os.MkdirAll(filepath.Join(root, pod.Cgroup), 0o755); err != nil {
		t.Fatal(err)
	}
	start(t, pod)
	dir := filepath.Join(t.TempDir(), "netns")
	name := filepath.Join(dir, "a")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(name, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	mount := func(source, target, kind string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	mount(pod.NetNS, name, "", unix.MS_BIND)
	if err := errors.Join(unix.Unmount(pod.NetNS, unix.MNT_DETACH), os.Remove(pod.NetNS)); err != nil {
		t.Fatal(err)
	}
	s := Scanner{CgroupRoot: root, NetNSDir: dir, Proc: "/proc"}
	if found, err := s.Find(map[string]bool{uidA: true}); err != nil || found[uidA].NetNS != "a" {
		t.Fatalf("before it is hidden: %+v, error %v", found, err)
	}
	mount("over", dir, "tmpfs", 0)
	if found, err := s.Find(map[string]bool{uidA: true}); err != nil || found[uidA].NetNS != "" || found[uidA].Hidden != name {
		t.Errorf("found %+v, error %v, want the name %s that is hidden", found, err, name)
	}
}

// start runs a process in a pod until the test ends.
func start(t *testing.T, p *lab.Pod) {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := p.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}
