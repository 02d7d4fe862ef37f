package proxy

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// waitingBinary is an Envoy that starts and never becomes live.
func (n *node) waitingBinary() string {
	n.t.Helper()
	path := n.cfg.path("waiting")
	real := n.cfg.Envoy
	script := "#!/bin/sh\ncase \"$*\" in *--mode*|*--hot-restart-version*) exec " + real + " \"$@\";; esac\nexec " + real + neverReady
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		n.t.Fatal(err)
	}
	return path
}

// untilStarting waits until a second Envoy is remembered beside the one that serves.
func (n *node) untilStarting() {
	n.t.Helper()
	for range 1000 {
		if r := n.cfg.loadRecord(); len(r.Envoys) == 2 {
			if busy, err := starting(r.Envoys[1].BaseID); err == nil && busy {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.t.Fatal("no second Envoy is started")
}

func TestKilledWhileTakingOver(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	n.run(n.cfg)
	first := n.untilLive()
	end := n.underLoad()
	other := *n
	other.cfg.Envoy = n.waitingBinary()
	cmd := other.start()
	n.untilStarting()
	_ = cmd.Process.Kill()
	_, _ = cmd.Process.Wait()
	// The first supervisor finds the Envoy that the second left, ends it, and goes on with its own.
	n.until("the first supervisor goes on", func(st *Status) bool {
		pids, err := cgroupPIDs(mustCgroup(t, n))
		return st.PID == first.PID && err == nil && len(pids) == 1
	})
	if err := n.client().Restart(context.Background()); err != nil {
		t.Error(err)
	}
	n.until("it has restarted", func(st *Status) bool { return st.Live && st.Epoch == 1 && len(st.Draining) == 0 })
	end()
}

func TestKilledWhileRestarting(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	real := n.cfg.Envoy
	waiting := n.waitingBinary()
	n.cfg.Envoy = n.cfg.path("binary")
	if err := os.Symlink(real, n.cfg.Envoy); err != nil {
		t.Fatal(err)
	}
	cmd := n.start()
	n.untilLive()
	end := n.underLoad()
	if err := os.Rename(waiting, n.cfg.Envoy); err != nil {
		t.Fatal(err)
	}
	asked, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = n.client().Restart(asked) }()
	n.untilStarting()
	_ = cmd.Process.Kill()
	_, _ = cmd.Process.Wait()
	n.cfg.Envoy = real
	n.cfg.startTimeout = 2 * time.Second
	n.run(n.cfg)
	n.until("the serving Envoy is adopted", func(st *Status) bool { return st.Live && st.Epoch == 1 && len(st.Draining) == 0 })
	end()
}

func TestKilledWhileStarting(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	real := n.cfg.Envoy
	n.cfg.Envoy = n.waitingBinary()
	cmd := n.start()
	first := n.until("an Envoy starts", func(st *Status) bool { return st.State == "INITIALIZING" })
	_ = cmd.Process.Kill()
	_, _ = cmd.Process.Wait()
	n.cfg.Envoy = real
	n.run(n.cfg)
	// One that may be about to serve is not ended.
	n.until("it is adopted", func(st *Status) bool { return st.PID == first.PID && !st.Live })
	if err := n.client().Restart(context.Background()); err != nil {
		t.Error(err)
	}
	if st := n.untilLive(); st.PID == first.PID || st.Epoch != 0 || st.Crashes != 0 {
		t.Errorf("status %+v, want another Envoy, started cold", st)
	}
}

func TestStrayProcessesAreEnded(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	cgroup := mustCgroup(t, n)
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	stray := exec.Command("sleep", "1000")
	stray.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	n.run(n.cfg)
	_ = stray.Wait()
	n.untilLive()
}

func TestRecordOfSomethingElse(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	// A process that now has the pid of an Envoy of old.
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	for _, text := range []string{
		"", "{", `{"envoys":[{"pid":1,"startTicks":1}]}`, `{"envoys":null}`,
		fmt.Sprintf(`{"boot":%q,"envoys":[{"pid":%d,"startTicks":1,"epoch":3,"baseID":7}]}`, bootID(), other.Process.Pid),
		fmt.Sprintf(`{"boot":"another","envoys":[{"pid":%d,"startTicks":1}]}`, other.Process.Pid),
	} {
		if err := os.WriteFile(n.cfg.path(recordFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		stop := n.run(n.cfg)
		if st := n.untilLive(); st.Epoch != 0 || st.PID == other.Process.Pid {
			t.Errorf("%q: status %+v", text, st)
		}
		if err := stop(); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if _, err := startTicks(other.Process.Pid); err != nil {
			t.Errorf("%q: a foreign process was ended: %v", text, err)
		}
	}
}

func TestLogIsBounded(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	f := forward(r, "envoy", slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for range 2 * linesPerSecond {
		fmt.Fprintf(w, "error\tmisc\tStats access logger computed non-number value: null\n")
		fmt.Fprintf(w, "warning\tmisc\tfield 'a.b' is marked as work-in-progress. API features marked as work-in-progress are not considered stable\n")
	}
	fmt.Fprintf(w, "critical\tmain\tline one\\nline two\n")
	fmt.Fprintf(w, "%s\n", strings.Repeat("x", 1<<20))
	fmt.Fprintf(w, "debug\thttp\tdetail\n\nno newline at the end %s", strings.Repeat("flood\n", 10_000))
	w.Close()
	<-f.done
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []string{`"level":"ERROR","msg":"line one\\nline two","envoy":"main"`, `"WARN","msg":"xxx`, `"DEBUG","msg":"detail","envoy":"http"`, `"no newline`} {
		if i >= len(lines) || !strings.Contains(lines[i], want) {
			t.Errorf("line %d: %.200s, want %s", i, lines[min(i, len(lines)-1)], want)
		}
	}
	// The flood takes well under the seconds that its lines would need at the rate allowed.
	if len(lines) > 20*linesPerSecond || out.Len() > 1<<20 {
		t.Errorf("%d lines with %d bytes were passed on", len(lines), out.Len())
	}
	if words := f.lastWords(); len(words) > keptLines*(longestLine+2) {
		t.Errorf("%d bytes of last words", len(words))
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"boot":"x","envoys":[{"pid":2,"startTicks":3,"epoch":0,"baseID":5,"binary":"/envoy","since":"2026-01-01T00:00:00Z"}],"restarts":1,"crashes":2}`))
	f.Add([]byte(`{"envoys":[{"pid":-1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		for _, e := range r.Envoys {
			// 0 and -1 would be signals to whole groups of processes, 1 to init.
			if e.PID <= 1 || e.StartTicks == 0 || e.Epoch < 0 {
				t.Errorf("%+v", e)
			}
		}
	})
}

// TestRunDirectoryIsRemoved: Envoy could not be told anything any more, and a pod sees the next directory only when it
// starts again.
func TestRunDirectoryIsRemoved(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- Run(ctx, n.cfg) }()
	n.untilLive()
	if err := os.RemoveAll(n.cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "run directory") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		cancel()
		t.Errorf("it went on; %v", <-done)
	}
}
