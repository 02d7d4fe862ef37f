package proxy

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// weft tunnel runs beside Envoy, in the same cgroup. Like Envoy it outlives its supervisor: the next one goes on with it if
// it is of the same program. Else the next one starts its own, and tells the one before it to drain: that one takes no
// new connections, and ends when it has none left.

const (
	// drainSignal tells weft tunnel to take no new connections, and to end when it has none.
	drainSignal = unix.SIGUSR1
	// tunnelOverlap is how long two of them listen: until the new one has been told by the agent where to.
	tunnelOverlap = 3 * time.Second
	// tunnelMemory is twice the heap that weft tunnel aims at, for two of them while one replaces the other.
	tunnelMemory = 1 << 30
	// tunnelSteady is how long one must run until the end of the one before it is forgotten.
	tunnelSteady = time.Minute
)

// startKeepingTunnel sees to weft tunnel until leaveTunnel is called or ctx ends.
func (s *supervisor) startKeepingTunnel(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.keepTunnel(ctx)
	}()
	s.leaveTunnel = func() {
		cancel()
		<-done
	}
}

// keepTunnel sees to it that one runs, if one is configured, and that those before it end.
func (s *supervisor) keepTunnel(ctx context.Context) {
	current := s.drainTunnels(ctx)
	if len(s.cfg.Tunnel) == 0 {
		return
	}
	for failures := 0; ctx.Err() == nil; failures++ {
		if current == nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause(failures)):
			}
			var err error
			if current, err = s.startTunnel(); err != nil {
				s.cfg.Log.Error("weft tunnel could not be started; it will be tried again", "error", err)
				s.set(func() { s.tunnel = TunnelStatus{Crashes: s.tunnel.Crashes, LastError: err.Error()} })
				continue
			}
			s.drainTunnels(ctx)
		}
		if !s.watchTunnel(ctx, current) {
			return
		}
		if time.Since(current.Since) > tunnelSteady {
			failures = 0
		}
		s.forgetTunnel(current)
		ran, words := time.Since(current.Since).Round(time.Millisecond), current.log.lastWords()
		s.cfg.Log.Error("weft tunnel ended by itself", "pid", current.PID, "ran", ran, "lastWords", words)
		s.set(func() {
			s.tunnel = TunnelStatus{Crashes: s.tunnel.Crashes + 1, LastError: strings.TrimSuffix(fmt.Sprintf("it ended after %s: %s", ran, words), ": ")}
		})
		current = nil
	}
}

// watchTunnel returns true when a process has ended, false when ctx has.
func (s *supervisor) watchTunnel(ctx context.Context, p *process) bool {
	s.set(func() { s.tunnel.PID, s.tunnel.Since = p.PID, p.Since })
	steady := time.NewTimer(tunnelSteady - time.Since(p.Since))
	defer steady.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-p.exited:
			return true
		case <-steady.C:
			s.set(func() { s.tunnel.LastError = "" })
		}
	}
}

// adoptTunnels watches those that an earlier supervisor left.
func (s *supervisor) adoptTunnels() {
	for _, e := range s.cfg.loadRecordOf(tunnelFile).Envoys {
		if p, err := attach(e); err == nil {
			s.set(func() { s.tunnels = append(s.tunnels, p) })
		}
	}
}

func (s *supervisor) startTunnel() (*process, error) {
	p, err := s.run("weft-tunnel", envoy{Binary: s.cfg.Tunnel[0]}, s.cfg.Tunnel[1:])
	if err != nil {
		return nil, fmt.Errorf("start weft tunnel: %w", err)
	}
	s.set(func() { s.tunnels = append(s.tunnels, p) })
	s.saveTunnels()
	s.cfg.Log.Info("weft tunnel is started", "pid", p.PID)
	return p, nil
}

// drainTunnels gives the one that takes new connections, nil if there is none, and lets the others end.
func (s *supervisor) drainTunnels(ctx context.Context) *process {
	s.mu.Lock()
	all := slices.Clone(s.tunnels)
	s.mu.Unlock()
	var current *process
	if n := len(all); n > 0 && !all[n-1].gone() && s.isConfigured(all[n-1]) {
		current, all = all[n-1], all[:n-1]
	}
	if current == nil && len(s.cfg.Tunnel) > 0 {
		return nil // first the new one, then the old ones' end
	}
	for _, p := range all {
		s.wg.Go(func() { s.drainTunnel(ctx, p) })
	}
	return current
}

// drainTunnel tells one to drain, which takes what a replaced Envoy gets too.
func (s *supervisor) drainTunnel(ctx context.Context, p *process) {
	if p.waitUntil(ctx, time.Now().Add(tunnelOverlap)) || ctx.Err() != nil {
		return
	}
	s.cfg.Log.Info("weft tunnel is drained and ended", "pid", p.PID)
	p.signal(drainSignal)
	if !p.waitUntil(ctx, time.Now().Add(s.cfg.ParentShutdownTime)) {
		if ctx.Err() != nil {
			return // it is the next supervisor's
		}
		p.end(time.Second)
	}
	s.forgetTunnel(p)
}

// isConfigured reports whether a process runs the configured program, the file and not only its path.
func (s *supervisor) isConfigured(p *process) bool {
	if len(s.cfg.Tunnel) == 0 {
		return false
	}
	runs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", p.PID))
	if err != nil {
		return false
	}
	file, err := os.Stat(s.cfg.Tunnel[0])
	return err == nil && os.SameFile(runs, file)
}

// isTunnel reports whether a pid is that of weft tunnel.
func (s *supervisor) isTunnel(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.tunnels, func(p *process) bool { return p.PID == pid && !p.gone() })
}

func (s *supervisor) forgetTunnel(p *process) {
	s.set(func() { s.tunnels = slices.DeleteFunc(s.tunnels, func(q *process) bool { return q == p }) })
	s.saveTunnels()
}

func (s *supervisor) saveTunnels() {
	var r record
	s.set(func() {
		for _, p := range s.tunnels {
			r.Envoys = append(r.Envoys, p.envoy)
		}
	})
	if err := s.cfg.saveRecordIn(tunnelFile, r); err != nil {
		s.cfg.Log.Error("a supervisor after this one could not adopt weft tunnel", "error", err)
	}
}

// endTunnels ends all at once.
func (s *supervisor) endTunnels() {
	if s.leaveTunnel != nil {
		s.leaveTunnel()
	}
	s.mu.Lock()
	all := slices.Clone(s.tunnels)
	s.tunnels = nil
	s.mu.Unlock()
	for _, p := range all {
		p.end(time.Second)
	}
}

// unwatchTunnels leaves those that run to the next supervisor.
func (s *supervisor) unwatchTunnels() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.tunnels {
		p.unwatch()
	}
}
