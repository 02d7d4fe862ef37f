package faults

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/testenv"
)

// buildWeft builds the program where other users may run it.
func buildWeft(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft-faults-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "weft")
	testenv.WeftTo(t, bin)
	return bin
}

// start is a way to start weft agent.
type start struct {
	args []string // instead of those that work
	drop int      // a capability that root lacks; -1 for none
	uid  uint32
	want []string // in the message
}

// TestAgentRefusesToStart: nothing of it is half done: no hook and no pin is there afterwards.
func TestAgentRefusesToStart(t *testing.T) {
	testenv.Root(t)
	bin := buildWeft(t)
	dir := t.TempDir()
	file, full, manifests := filepath.Join(dir, "file"), filepath.Join(dir, "full"), filepath.Join(dir, "manifests")
	write(t, file, "")
	for _, d := range []string{full, manifests} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	smallDisk(t, full)
	fill(t, full)
	damaged := filepath.Join(dir, "damaged")
	if err := os.MkdirAll(filepath.Join(damaged, "ca"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(damaged, "ca", "root-1.pem"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
	const pins = "/sys/fs/bpf/wflt-start"
	t.Cleanup(func() { // for what did start
		if err := datapath.Detach(datapath.Config{PinDir: pins, ProxyCgroup: "wflt-start"}); err != nil {
			t.Error(err)
		}
	})
	for name, s := range map[string]start{
		"another user":       {uid: 65534, want: []string{"permission denied", dir}},
		"no CAP_SYS_ADMIN":   {drop: unix.CAP_SYS_ADMIN, want: []string{"CAP_SYS_ADMIN is missing", "run as root; in a container, add the capability"}},
		"no CAP_NET_ADMIN":   {drop: unix.CAP_NET_ADMIN, want: []string{"CAP_NET_ADMIN is missing", "run as root; in a container, add the capability"}},
		"no manifests":       {args: []string{"--manifests", filepath.Join(dir, "none")}, want: []string{"--manifests", "none: no such file"}},
		"manifests a file":   {args: []string{"--manifests", file}, want: []string{"--manifests", "file is not a folder"}},
		"run a file":         {args: []string{"--run", file}, want: []string{"not a directory", file}},
		"run too long":       {args: []string{"--run", filepath.Join(dir, strings.Repeat("x", 100))}, want: []string{"too long for a socket", "shorter --run"}},
		"state on full disk": {args: []string{"--state", full}, want: []string{"no space left on device", full}},
		"state unreadable":   {args: []string{"--state", file}, want: []string{"not a directory", file}},
		"damaged CA":         {args: []string{"--state", damaged}, want: []string{damaged}},
		"trust domain":       {args: []string{"--trust-domain", "a b"}, want: []string{`trust domain "a b"`}},
		"life of SVIDs":      {args: []string{"--svid-ttl", "-1h"}, want: []string{"-1h0m0s"}},
		"node address":       {args: []string{"--node-address", "10.0.0.1/8"}, want: []string{"--node-address", "10.0.0.1/8"}},
		"cgroup outside":     {args: []string{"--proxy-cgroup", "../x"}, want: []string{`"../x"`, "below the cgroup2 mount"}},
		"pins on no bpffs":   {args: []string{"--pins", "/proc/self/weft"}, want: []string{"pins", "/proc/self/weft"}},
	} {
		t.Run(name, func(t *testing.T) {
			if s.uid != 0 { // so that only what it may do is in its way
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			args := append([]string{
				"agent", "--manifests", manifests, "--run", filepath.Join(dir, "run"), "--state", filepath.Join(dir, "state"),
				"--node-address", "192.0.2.1", "--pins", pins, "--proxy-cgroup", "wflt-start",
			}, s.args...)
			out, code := runWith(t, s, bin, args...)
			if code != 1 {
				t.Errorf("exit status %d", code)
			}
			for _, w := range s.want {
				if !strings.Contains(out, w) {
					t.Errorf("the message lacks %q:\n%s", w, out)
				}
			}
			if strings.Contains(out, "AAAA") || strings.Contains(out, "%!") {
				t.Errorf("the message quotes what it should not:\n%s", out)
			}
			if left, _ := filepath.Glob(pins + "/links/*"); len(left) > 0 {
				t.Errorf("hooks are attached: %v", left)
			}
		})
	}
}

// runWith runs a program as start says and gives its output and exit status; -1 if it had to be killed.
func runWith(t *testing.T, s start, bin string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if s.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.uid, Gid: s.uid}
	}
	started := make(chan error)
	go func() {
		if s.drop > 0 {
			runtime.LockOSThread() // never unlocked: the thread, with one capability less, ends with the goroutine
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(s.drop), 0, 0, 0); err != nil {
				started <- err
				return
			}
		}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	return out.String(), cmd.ProcessState.ExitCode()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// smallDisk mounts a file system of a few pages.
func smallDisk(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=0700"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill leaves no space in a file system, and gives what takes it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	_ = f.Close()
	return func() { _ = os.Remove(path) }
}
