package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// showLogs prints what supervisors logged when a test failed.
func (n *node) showLogs() {
	if n.t.Failed() {
		n.t.Log("\n" + n.logs.String())
	}
}

func TestStartStatusAndStop(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	// Nobody listens at these: what a dead supervisor leaves.
	for _, name := range []string{ControlSocket, AdminSocket} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: n.cfg.path(name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	stop := n.run(n.cfg)
	st := n.until("Envoy is live and connected", func(st *Status) bool { return st.Live && st.Listeners == 1 })
	if st.Epoch != 0 || st.Restarts != 0 || st.Crashes != 0 || st.PID == 0 || st.LastError != "" || st.Supervisor != os.Getpid() {
		t.Errorf("status %+v", st)
	}
	if !strings.HasPrefix(st.Version, "1.") || st.AllocatedBytes == 0 || st.HeapBytes < st.AllocatedBytes || st.ResidentBytes == 0 {
		t.Errorf("status %+v", st)
	}
	if err := n.get(); err != nil {
		t.Error(err)
	}
	pids, err := cgroupPIDs(mustCgroup(t, n))
	if err != nil || len(pids) != 1 || pids[0] != st.PID {
		t.Errorf("processes %v, %v in Envoy's cgroup, want %d", pids, err, st.PID)
	}
	for _, name := range []string{ControlSocket, AdminSocket, recordFile} {
		if fi, err := os.Stat(n.cfg.path(name)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, mode %v, want 0600", name, err, fi.Mode())
		}
	}
	counters, err := n.client().Counters(context.Background(), `^http\.answering\.downstream_rq_2xx$`)
	if err != nil || counters["http.answering.downstream_rq_2xx"] != 1 {
		t.Errorf("counters %v, %v, want one answer", counters, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := attach(envoy{PID: st.PID}); !errors.Is(err, errGone) {
		t.Errorf("Envoy is still there: %v", err)
	}
	for _, pattern := range []string{n.cfg.path("envoy_*"), n.cfg.path("*.sock"), n.cfg.path(recordFile)} {
		left, _ := filepath.Glob(pattern)
		for _, f := range left {
			if filepath.Base(f) != XDSSocket {
				t.Errorf("%s is left", f)
			}
		}
	}
	if _, err := n.client().Status(context.Background()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("status after the end: %v", err)
	}
}

func mustCgroup(t *testing.T, n *node) string {
	dir, err := prepareCgroup(n.cfg.CgroupRoot, n.cfg.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestHotRestartUnderLoad(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	n.run(n.cfg)
	first := n.untilLive()
	end := n.underLoad()
	for i := 1; i <= 2; i++ {
		if err := n.client().Restart(context.Background()); err != nil {
			t.Fatal(err)
		}
		st := n.until("the old Envoy has ended", func(st *Status) bool { return len(st.Draining) == 0 })
		if st.Epoch != i || st.Restarts != i || !st.Live || st.PID == first.PID || st.Crashes != 0 {
			t.Errorf("restart %d: status %+v", i, st)
		}
	}
	end()
}

func TestCrash(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	n.run(n.cfg)
	st := n.untilLive()
	if err := n.client().Restart(context.Background()); err != nil { // so that the epoch has to start anew
		t.Fatal(err)
	}
	for i := 1; i <= 3; i++ {
		st = n.until("the Envoy serves alone", func(st *Status) bool { return st.Live && len(st.Draining) == 0 })
		if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		st = n.until("another Envoy is live", func(now *Status) bool { return now.Live && now.PID != st.PID && now.LastError == "" })
		if st.Crashes != i || st.Epoch != 0 {
			t.Errorf("status %+v, want %d crashes and epoch 0", st, i)
		}
		if err := n.get(); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(n.cfg.path("envoy_parent_*")); len(left) != 1 {
		t.Errorf("%v: the sockets of crashed Envoys are left", left)
	}
	if !strings.Contains(n.logs.String(), "Envoy ended by itself") {
		t.Error("the crash is not in the log")
	}
}

func TestBadBinaryLeavesTheOldServing(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	real := n.cfg.Envoy
	n.cfg.Envoy = n.cfg.path("binary")
	use := func(script string) {
		_ = os.Remove(n.cfg.Envoy)
		var err error
		if script == "" {
			err = os.Symlink(real, n.cfg.Envoy)
		} else {
			err = os.WriteFile(n.cfg.Envoy, []byte(script), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	n.cfg.startTimeout = 3 * time.Second
	use("")
	n.run(n.cfg)
	first := n.untilLive()
	end := n.underLoad()
	// Does what a binary must to be tried, and then something else.
	accepted := "#!/bin/sh\ncase \"$*\" in *--mode*) exit 0;; *--hot-restart-version*) exec " + real + " --hot-restart-version;; esac\n"
	for _, c := range []struct{ name, script, want string }{
		{"no program", "this is not a program", "does not accept the bootstrap"},
		{"not executable", "chmod", "not an executable file"},
		{"another version", "#!/bin/sh\ncase \"$*\" in *--hot-restart-version*) echo 10.96;; esac\n", "hot restart version 10.96"},
		{"ends at its start", accepted + "echo broken library >&2; exit 1\n", "broken library"},
		{"never live", accepted + "exec sleep 100\n", "not live yet"},
		{"an Envoy that is never live", accepted + "exec " + real + neverReady, "not live yet"},
		{"an Envoy that dies while it starts", accepted + "(sleep 1; kill -9 $$) & exec " + real + neverReady, "ended before it was live"},
	} {
		use(c.script)
		if c.script == "chmod" {
			_ = os.Chmod(n.cfg.Envoy, 0o644)
		}
		err := n.client().Restart(context.Background())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that says %q", c.name, err, c.want)
		}
		st, err := n.client().Status(context.Background())
		if err != nil || st.PID != first.PID || !st.Live || st.LastError == "" {
			t.Errorf("%s: status %+v, %v; want the first Envoy", c.name, st, err)
		}
	}
	use("")
	if err := n.client().Restart(context.Background()); err != nil {
		t.Errorf("after the failures: %v", err)
	}
	n.until("the old one has ended", func(st *Status) bool { return st.Live && st.Epoch == 1 && len(st.Draining) == 0 && st.LastError == "" })
	end()
}

// neverReady makes an Envoy wait for listeners from the agent, which says nothing in these tests.
const neverReady = ` "$@" --config-yaml '{dynamic_resources: {lds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s}}}'
`

func TestRestartNeedsTheAgent(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	n.cfg.startTimeout = time.Second
	n.run(n.cfg)
	first := n.untilLive()
	if err := os.Remove(n.cfg.path(XDSSocket)); err != nil {
		t.Fatal(err)
	}
	if err := n.client().Restart(context.Background()); err == nil || !strings.Contains(err.Error(), "agent") {
		t.Errorf("restart without an agent: %v", err)
	}
	if st := n.untilLive(); st.PID != first.PID {
		t.Errorf("status %+v, want the first Envoy", st)
	}
}

func TestTakeOver(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	done := make(chan error, 1)
	go func() { done <- Run(context.Background(), n.cfg) }()
	first := n.untilLive()
	end := n.underLoad()
	second := n.cfg
	stop := n.run(second)
	if err := <-done; err != nil {
		t.Errorf("the first supervisor ends with %v", err)
	}
	st := n.until("the second supervises", func(st *Status) bool { return st.Live && st.Epoch == 1 && len(st.Draining) == 0 })
	if st.PID == first.PID || st.Crashes != 0 || st.Restarts != 1 {
		t.Errorf("status %+v", st)
	}
	end()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTakeOverThatFails(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	n.run(n.cfg)
	first := n.untilLive()
	bad := n.cfg
	bad.Envoy = "/bin/false"
	if err := Run(context.Background(), bad); err == nil || !strings.Contains(err.Error(), "/bin/false") {
		t.Errorf("a supervisor with a bad binary ends with %v", err)
	}
	// It notices a moment later that the other has given up.
	var err error
	n.until("the first restarts", func(*Status) bool { err = n.client().Restart(context.Background()); return err == nil })
	n.until("the first has restarted", func(st *Status) bool { return st.PID != first.PID && st.Live && len(st.Draining) == 0 })
}

func TestKilledSupervisor(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	cmd := n.start()
	first := n.untilLive()
	end := n.underLoad()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = cmd.Process.Wait()
	// Envoy lives on, and not because it has not yet heard.
	time.Sleep(300 * time.Millisecond)
	if err := n.get(); err != nil {
		t.Errorf("without a supervisor: %v", err)
	}
	if ticks, err := startTicks(first.PID); err != nil || ticks == 0 {
		t.Fatalf("Envoy ended with its supervisor: %v", err)
	}
	cmd = n.start()
	st := n.until("the Envoy is adopted", func(st *Status) bool { return st.Live && st.Epoch == 1 && len(st.Draining) == 0 })
	if st.PID == first.PID || st.Crashes != 0 {
		t.Errorf("status %+v", st)
	}
	end()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if state, err := cmd.Process.Wait(); err != nil || !state.Success() {
		t.Errorf("the supervisor ends with %v, %v", state, err)
	}
}

func TestKilledSupervisorAndEnvoy(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	cmd := n.start()
	first := n.untilLive()
	_ = cmd.Process.Kill()
	_, _ = cmd.Process.Wait()
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.run(n.cfg)
	if st := n.untilLive(); st.Epoch != 0 || st.PID == first.PID {
		t.Errorf("status %+v, want a new Envoy with epoch 0", st)
	}
}

func TestBadConfiguration(t *testing.T) {
	n := newNode(t)
	blocked := n.cfg.path("file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"run directory is a file":    {func(c *Config) { c.RunDir = blocked }, "not a directory"},
		"run directory unwritable":   {func(c *Config) { c.RunDir = "/proc/self" }, "/proc/self"},
		"run directory relative":     {func(c *Config) { c.RunDir = "run" }, "not an absolute path"},
		"run directory too long":     {func(c *Config) { c.RunDir = "/" + strings.Repeat("x", 100) }, "too long"},
		"no Envoy":                   {func(c *Config) { c.Envoy = "/nonexistent/envoy" }, "/nonexistent/envoy"},
		"cgroup outside the mount":   {func(c *Config) { c.Cgroup = "../x" }, "cgroup"},
		"cgroup is the mount":        {func(c *Config) { c.Cgroup = "." }, "cgroup"},
		"log level":                  {func(c *Config) { c.LogLevel = "loud" }, "loud"},
		"parent ends before drained": {func(c *Config) { c.DrainTime = time.Minute; c.ParentShutdownTime = time.Second }, "drain time"},
		"a bootstrap Envoy refuses":  {func(c *Config) { c.amend = func(b map[string]any) { b["nodee"] = 1 } }, "does not accept the bootstrap"},
	} {
		cfg := n.cfg
		c.change(&cfg)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err := Run(ctx, cfg)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that says %q", name, err, c.want)
		}
	}
}
