package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/testenv"
)

// asShim makes the test binary what a container runtime has above each container: it becomes the parent of what the
// container's processes leave, and ends with the pod.
const asShim = "WEFT_TEST_SHIM"

// runShim starts a supervisor in a container's cgroup and namespaces, and tells its pid. It ends when its stdin does.
func runShim(cgroup string) int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, asShim+"=") })
	cmd.Stderr = os.Stderr
	flags := uintptr(syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC)
	if mounts, err := os.ReadFile("/proc/mounts"); err == nil && !strings.Contains(string(mounts), " cgroup ") {
		flags |= unix.CLONE_NEWCGROUP // runtimes do so where there are no hierarchies of the first version
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Cloneflags: flags}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(cmd.Process.Pid)
	go func() {
		for {
			_, _ = syscall.Wait4(-1, nil, 0, nil) // as a shim does for all that it inherits
			time.Sleep(10 * time.Millisecond)
		}
	}()
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	return 0
}

// pod is a supervisor as the kubelet runs it.
type pod struct {
	node   *node
	cgroup string
	shim   *exec.Cmd
	end    func() error // of the shim
	pid    int
	health string
}

// startPod starts a supervisor in a pod; podCgroup is beside Envoy's.
func (n *node) startPod(name string) *pod {
	n.t.Helper()
	root, err := cgroupMount()
	if err != nil {
		n.t.Fatal(err)
	}
	p := &pod{node: n, cgroup: filepath.Join(root, n.cfg.Cgroup+"-"+name), health: filepath.Join(n.cfg.RunDir, name+".health")}
	if err := os.Mkdir(p.cgroup, 0o755); err != nil {
		n.t.Fatal(err)
	}
	cfg := n.cfg
	cfg.Log, cfg.InPod, cfg.HealthSocket = nil, true, p.health
	text, err := json.Marshal(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	p.shim = exec.Command("/proc/self/exe")
	p.shim.Env = append(os.Environ(), asShim+"="+p.cgroup, asSupervisor+"="+string(text))
	p.shim.Stderr = n.logs
	stdin, err := p.shim.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	stdout, err := p.shim.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := p.shim.Start(); err != nil {
		n.t.Fatal(err)
	}
	p.end = func() error {
		stdin.Close()
		return p.shim.Wait()
	}
	n.t.Cleanup(p.kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		p.pid, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		n.t.Fatalf("the pod's supervisor: %v; %s", err, n.logs)
	}
	return p
}

// stop ends the pod as a container runtime does: SIGTERM, then all that is in its cgroup is killed, then the shim ends.
func (p *pod) stop() {
	p.node.t.Helper()
	proc, err := attach(envoy{PID: p.pid})
	if err == nil {
		proc.signal(unix.SIGTERM)
		if !proc.waitUntil(context.Background(), time.Now().Add(10*time.Second)) {
			p.node.t.Error("the supervisor does not end within 10 s of SIGTERM")
		}
	}
	p.kill()
}

// kill ends the pod without a word.
func (p *pod) kill() {
	_ = os.WriteFile(filepath.Join(p.cgroup, "cgroup.kill"), []byte("1"), 0)
	if p.end != nil {
		_ = p.end()
		p.end = nil
	}
	for range 100 {
		if os.Remove(p.cgroup) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (p *pod) untilReady() {
	p.node.t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = Ready(context.Background(), p.health); err == nil {
			return
		}
	}
	p.node.t.Fatalf("the pod is not ready: %v; %s", err, p.node.logs)
}

// TestPodsThatFollowEachOther rolls a DaemonSet that surges: the next pod comes beside the one before.
func TestPodsThatFollowEachOther(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	first := n.startPod("a")
	first.untilReady()
	st := n.untilLive()
	if !st.InPod || st.Supervisor != first.pid {
		t.Errorf("status %+v, want supervisor %d", st, first.pid)
	}
	hierarchies, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", st.PID))
	if err != nil || len(oldHierarchies(string(hierarchies))) > 0 || !strings.Contains(string(hierarchies), "0::/"+n.cfg.Cgroup+"\n") {
		t.Errorf("Envoy is in the cgroups %s, %v", hierarchies, err)
	}
	end := n.underLoad()
	second := n.startPod("b")
	if err := Ready(context.Background(), second.health); err == nil {
		t.Error("the second pod is ready at once")
	}
	second.untilReady()
	st = n.until("the second supervises", func(st *Status) bool { return st.Live && st.Supervisor == second.pid })
	if st.Epoch != 1 {
		t.Errorf("epoch %d, want 1", st.Epoch)
	}
	// The first does not come back, however often it is looked at.
	time.Sleep(3 * time.Second)
	if err := Ready(context.Background(), first.health); err != nil {
		t.Errorf("the first pod: %v", err)
	}
	first.stop()
	time.Sleep(time.Second)
	if now := n.untilLive(); now.PID != st.PID || now.Crashes != 0 {
		t.Errorf("after the first pod's end: %+v, want Envoy %d", now, st.PID)
	}
	end()
	second.stop()
	if err := n.get(); err != nil {
		t.Errorf("without any pod: %v", err)
	}
	if err := End(context.Background(), n.cfg); err != nil {
		t.Error(err)
	}
	if err := n.get(); err == nil {
		t.Error("Envoy still answers after End")
	}
}

// TestPodAfterPod ends a pod before the next comes, as a kubelet does where pods do not surge, and one that crashes.
func TestPodAfterPod(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	first := n.startPod("a")
	first.untilReady()
	end := n.underLoad()
	first.stop()
	time.Sleep(time.Second)
	second := n.startPod("b")
	second.untilReady()
	n.until("the second has restarted Envoy", func(st *Status) bool { return st.Live && st.Epoch == 1 })
	second.kill()
	time.Sleep(time.Second)
	third := n.startPod("c")
	third.untilReady()
	st := n.until("the third has restarted Envoy", func(st *Status) bool { return st.Live && st.Epoch == 2 })
	if st.Supervisor != third.pid || st.Crashes != 0 {
		t.Errorf("status %+v, want supervisor %d and no crash", st, third.pid)
	}
	end()
	third.stop()
	if err := End(context.Background(), n.cfg); err != nil {
		t.Error(err)
	}
}

// TestPodThatComesBack lets the pod that handed over take over again when the other is gone.
func TestPodThatComesBack(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	first := n.startPod("a")
	first.untilReady()
	second := n.startPod("b")
	second.untilReady()
	second.stop()
	st := n.until("the first supervises again", func(st *Status) bool { return st.Live && st.Supervisor == first.pid })
	if st.Crashes != 0 {
		t.Errorf("status %+v", st)
	}
	first.untilReady()
	if err := n.get(); err != nil {
		t.Error(err)
	}
	first.stop()
	if err := End(context.Background(), n.cfg); err != nil {
		t.Error(err)
	}
}

// TestCgroupNamespace enters one from another, as a pod enters the node's.
func TestCgroupNamespace(t *testing.T) {
	testenv.Root(t)
	const thread = "/proc/thread-self/ns/cgroup"
	read := func() string {
		ns, err := os.Readlink(thread)
		if err != nil {
			t.Error(err)
		}
		return ns
	}
	mine := read()
	home, err := os.Open(thread) // by its number: another thread may be the one that moves
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			t.Error(err)
			return
		}
		if read() == mine {
			t.Error("unshare has no effect")
		}
		err := inCgroupNamespace(fmt.Sprintf("/proc/self/fd/%d", home.Fd()), func() error {
			if got := read(); got != mine {
				t.Errorf("it ran in %s, want %s", got, mine)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}()
	<-done
	if err := inCgroupNamespace("/proc/self/no", func() error { return nil }); err == nil || !strings.Contains(err.Error(), "hostPID") {
		t.Errorf("error %v, want what the pod needs", err)
	}
}

func TestOldHierarchies(t *testing.T) {
	for text, want := range map[string][]string{
		"0::/kubepods/pod1\n": nil,
		"12:cpu,cpuacct:/kubepods/pod1\n11:devices:/\n1:name=systemd:/user.slice\n0::/a:b\n": {"cpu,cpuacct", "name=systemd"},
		"": nil,
	} {
		if got := oldHierarchies(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
