package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// probeInterval is how often a starting Envoy is asked whether it is live.
const probeInterval = 50 * time.Millisecond

// coldStart starts an Envoy that has no predecessor. It returns when the process runs; that it becomes live, which takes
// the agent, is waited for beside.
func (s *supervisor) coldStart(ctx context.Context, validate bool) error {
	s.endStrays()
	binary, bootstrap, err := s.prepare()
	if err != nil {
		return err
	}
	if validate {
		if err := s.validate(ctx, binary, bootstrap); err != nil {
			return err
		}
	}
	p, err := s.start(binary, bootstrap, 0, freshBaseID())
	if err != nil {
		return err
	}
	s.set(func() { s.current = p })
	s.save()
	s.awaitLive(ctx, p)
	return nil
}

// awaitLive notes beside the loop when an Envoy becomes live.
func (s *supervisor) awaitLive(ctx context.Context, p *process) {
	var before string
	s.set(func() { before = s.lastError })
	s.wg.Go(func() {
		if s.untilLive(ctx, p, nil) == nil {
			s.cfg.Log.Info("Envoy is live", "pid", p.PID, "epoch", p.Epoch, "after", time.Since(p.Since).Round(time.Millisecond))
			s.set(func() {
				if s.lastError == before { // nothing failed since
					s.lastError = ""
				}
			})
		}
	})
}

// prepare finds the binary and writes the bootstrap.
func (s *supervisor) prepare() (binary, bootstrap string, err error) {
	if binary = s.cfg.Envoy; binary == "" {
		binary, err = Find()
	} else {
		binary, err = executable(binary)
	}
	if err != nil {
		return "", "", err
	}
	bootstrap, err = s.cfg.writeBootstrap()
	if err != nil {
		return "", "", fmt.Errorf("write Envoy's bootstrap: %w", err)
	}
	return binary, bootstrap, nil
}

// validate lets a binary read the bootstrap without serving: what fails here cannot hurt the Envoy that serves.
func (s *supervisor) validate(ctx context.Context, binary, bootstrap string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--mode", "validate", "--config-path", bootstrap,
		"--log-level", "error", "--log-format", "%_").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s does not accept the bootstrap %s: %w: %s", binary, bootstrap, err, tail(out))
	}
	return nil
}

// tail is the end of what a program wrote, for an error.
func tail(out []byte) string {
	const most = 500
	text := strings.TrimSpace(string(out))
	if len(text) > most {
		text = "..." + text[len(text)-most:]
	}
	return text
}

// start runs a binary and watches it.
func (s *supervisor) start(binary, bootstrap string, epoch int, baseID uint32) (*process, error) {
	p, err := s.run("envoy", envoy{Epoch: epoch, BaseID: baseID, Binary: binary}, s.cfg.flags(bootstrap, epoch, baseID))
	if err != nil {
		return nil, fmt.Errorf("start Envoy: %w", err)
	}
	s.cfg.Log.Debug("Envoy is started", "pid", p.PID, "epoch", epoch, "baseID", baseID)
	return p, nil
}

// run starts a binary in the proxy's cgroup, passes its log on, and watches it. It is no child of this process.
func (s *supervisor) run(name string, e envoy, flags []string) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	log := forward(r, name, s.cfg.Log)
	e.PID, err = s.launch(w, name, e.Binary, flags)
	if err == nil {
		e.Since = time.Now()
		var p *process
		if p, err = attach(e); err == nil {
			p.log = log
			s.wg.Go(p.endLog)
			return p, nil
		}
	}
	w.Close()
	<-log.done
	if words := log.lastWords(); words != "" {
		err = fmt.Errorf("%w: %s", err, words)
	}
	return nil, err
}

// isLive asks an Envoy once, unless it is known to have been live. Envoy's own state says LIVE a moment before its
// workers listen and its predecessor is told to drain; the flag in the shared memory tells when that is done.
func (s *supervisor) isLive(ctx context.Context, p *process) bool {
	if !p.live.Load() {
		info, err := s.admin.info(ctx)
		if err == nil && info.of(p.envoy) && info.State == "LIVE" {
			version := info.release()
			p.version.Store(&version)
			busy, err := starting(p.BaseID)
			p.live.Store(err != nil || !busy)
		}
	}
	return p.live.Load() && !p.gone()
}

// untilLive waits until a process is live. It fails when the process, or the one before it, ends.
func (s *supervisor) untilLive(ctx context.Context, p, before *process) error {
	var beforeExited <-chan struct{}
	if before != nil {
		beforeExited = before.exited
	}
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		if s.isLive(ctx, p) {
			return nil
		}
		select {
		case <-p.exited:
			return errors.New("it ended before it was live")
		case <-beforeExited:
			return errors.New("the Envoy before it ended meanwhile")
		case <-ctx.Done():
			return fmt.Errorf("it is not live yet: %w; does the agent answer?", ctx.Err())
		case <-tick.C:
		}
	}
}

// of reports whether it is that Envoy that answered, and not the one before or after it at the same socket.
func (i serverInfo) of(e envoy) bool {
	return i.CommandLineOptions.RestartEpoch == e.Epoch && i.CommandLineOptions.BaseID == e.BaseID
}

// endStrays ends processes in Envoy's cgroup that nobody supervises: they would answer on the same ports.
func (s *supervisor) endStrays() {
	pids, err := cgroupPIDs(s.cgroup)
	if err != nil {
		s.cfg.Log.Warn("Envoy's cgroup cannot be read", "error", err)
		return
	}
	for _, pid := range pids {
		if slices.ContainsFunc(s.draining, func(p *process) bool { return p.PID == pid }) || s.isTunnel(pid) {
			continue
		}
		p, err := attach(envoy{PID: pid})
		if err != nil {
			continue
		}
		s.cfg.Log.Warn("a process in Envoy's cgroup that no supervisor knows is ended", "pid", pid)
		p.end(2 * time.Second)
	}
}

// freshBaseID is one that no Envoy of this machine uses. Envoy multiplies it by ten in 32 bits, signed.
func freshBaseID() uint32 {
	for range 100 {
		id := 1 + rand.Uint32N(200_000_000)
		if _, err := os.Stat(sharedMemory(id)); os.IsNotExist(err) {
			return id
		}
	}
	return 1 + rand.Uint32N(200_000_000) // Envoy replaces what is there
}

// finish is what a supervisor does with its Envoy when it is told to end.
func (s *supervisor) finish() error {
	if s.cfg.InPod {
		s.detach()
		return nil
	}
	return s.stop(context.Background())
}

// stop drains Envoy and ends it: no listener takes anything new after the drain time.
func (s *supervisor) stop(ctx context.Context) error {
	if p := s.current; p != nil && !p.gone() {
		s.cfg.Log.Info("Envoy is drained and ended", "pid", p.PID, "drainTime", s.cfg.DrainTime)
		ctx, cancel := context.WithTimeout(ctx, s.cfg.DrainTime)
		s.drained(ctx, p)
		cancel()
		p.end(5 * time.Second)
	}
	for _, p := range s.drainers() {
		p.end(time.Second)
	}
	s.endTunnels()
	s.wg.Wait()
	if p := s.current; p != nil {
		s.cfg.forget(p.BaseID)
	}
	for _, f := range []string{ControlSocket, recordFile, tunnelFile, AdminSocket} {
		_ = os.Remove(s.cfg.path(f))
	}
	return nil
}

// drained asks Envoy to close its connections as they become idle, and waits until none is left or ctx ends.
func (s *supervisor) drained(ctx context.Context, p *process) {
	if !p.live.Load() || s.admin.post(ctx, "/drain_listeners?graceful") != nil {
		return
	}
	tick := time.NewTicker(2 * probeInterval)
	defer tick.Stop()
	for {
		stats, err := s.admin.counters(ctx, `^server\.total_connections$`)
		if n, ok := stats["server.total_connections"]; err != nil || ok && n == 0 {
			return
		}
		select {
		case <-p.exited:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *supervisor) drainers() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.draining)
}

// retire lets an Envoy drain that another replaced. The new one ends it after ParentShutdownTime; if that does not come
// about, because the new one crashed, the supervisor does.
func (s *supervisor) retire(p *process) {
	if p.remote {
		return // in another PID namespace: its own supervisor's
	}
	deadline := time.Now().Add(s.cfg.ParentShutdownTime + 5*time.Second)
	s.set(func() { s.draining = append(s.draining, p) })
	s.wg.Go(func() {
		if !p.waitUntil(context.Background(), deadline) {
			s.cfg.Log.Warn("a replaced Envoy did not end in time and is ended", "pid", p.PID, "epoch", p.Epoch)
			p.signal(unix.SIGKILL)
			<-p.exited
		}
		s.set(func() { s.draining = slices.DeleteFunc(s.draining, func(q *process) bool { return q == p }) })
		s.forget(p.BaseID)
	})
}
