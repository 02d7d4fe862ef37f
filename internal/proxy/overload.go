package proxy

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

const (
	// envoyPoll is how often Envoy is asked for its state, and for that of its overload manager.
	envoyPoll = time.Second
	// overloadCalm is how long Envoy must not refuse work to count as recovered. One that refuses work frees some memory,
	// takes on work for a moment, and refuses again.
	overloadCalm = 10 * time.Second
)

// Active lists the overload actions that are true, sorted.
func Active(actions map[string]bool) []string {
	var out []string
	for name, active := range actions {
		if active {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// refuses reports whether an active action makes Envoy refuse requests or connections. The others slow it down only.
func refuses(actions map[string]bool) bool {
	for name, active := range actions {
		if active && strings.HasPrefix(name, "stop_accepting_") {
			return true
		}
	}
	return false
}

// watchEnvoy keeps s.polled as Envoy has it until ctx ends, and replaces an Envoy that refuses work for longer than
// OverloadTime.
func (s *supervisor) watchEnvoy(ctx context.Context) {
	tick := time.NewTicker(envoyPoll)
	defer tick.Stop()
	var w overloadWatch
	var full connectionWatch
	var watched *process
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p := s.serving()
		if p != watched {
			watched, w, full = p, overloadWatch{replaced: w.replaced}, connectionWatch{}
		}
		if p == nil {
			continue
		}
		now, err := s.admin.poll(ctx, p)
		if s.serving() != p {
			continue
		}
		if err != nil {
			s.saw(&poll{of: p, state: "UNKNOWN", overload: s.overloadOf(p)})
			continue
		}
		now.overload[model.OverloadConnections] = full.saw(time.Now(), now.refused)
		s.saw(now)
		actions := now.overload
		if !s.overloadDue(&w, p, actions) {
			continue
		}
		if err := s.ask(ctx, func(ctx context.Context) error { return s.replaceOverloaded(ctx, p, Active(actions)) }); err != nil && ctx.Err() == nil {
			s.fail("Envoy stays in overload and could not be replaced", err)
		}
	}
}

// serving is the Envoy that serves; nil if there is none.
func (s *supervisor) serving() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.current; p != nil && p.live.Load() && !p.gone() {
		return p
	}
	return nil
}

// overloadOf is what the last poll saw of an Envoy; nil if it was of another.
func (s *supervisor) overloadOf(p *process) map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != p || s.polled == nil || s.polled.of != p {
		return nil
	}
	return s.polled.overload
}

// overloadDue reports whether an Envoy is to be replaced now.
func (s *supervisor) overloadDue(w *overloadWatch, p *process, actions map[string]bool) bool {
	now := time.Now()
	if s.cfg.OverloadTime < 0 || w.saw(now, refuses(actions)) < s.cfg.OverloadTime {
		return false
	}
	if next := w.replaced.Add(s.cfg.OverloadInterval); !w.replaced.IsZero() && now.Before(next) {
		if !w.told {
			s.cfg.Log.Error("Envoy stays in overload, and was replaced for it before; it is not replaced again yet",
				"pid", p.PID, "actions", strings.Join(Active(actions), ","), "notBefore", next)
		}
		w.told = true
		return false
	}
	w.replaced = now
	return true
}

// overloadWatch measures for how long an Envoy has refused work.
type overloadWatch struct {
	began, last time.Time // when it was first and last seen to refuse work, in this overload
	replaced    time.Time // last replacement, of any Envoy
	told        bool      // that it is not replaced yet
}

// saw takes in whether the Envoy refuses work now, and returns since when it has done so; 0 if it does not.
func (w *overloadWatch) saw(now time.Time, refuses bool) time.Duration {
	if refuses {
		w.last = now
		if w.began.IsZero() {
			w.began = now
		}
		return now.Sub(w.began)
	}
	if now.Sub(w.last) > overloadCalm {
		w.began, w.told = time.Time{}, false
	}
	return 0
}

// connectionWatch tells from the number of connections that an Envoy refused whether it has as many as it may have. A new Envoy in its
// place would have as many soon: it is told, and nothing is replaced.
type connectionWatch struct {
	known   bool
	refused uint64
	last    time.Time // when one was refused
}

// saw takes in how many were refused so far, and reports whether one was lately.
func (w *connectionWatch) saw(now time.Time, refused uint64) bool {
	if w.known && refused > w.refused {
		w.last = now
	}
	w.known, w.refused = true, refused
	return !w.last.IsZero() && now.Sub(w.last) <= overloadCalm
}

// replaceOverloaded puts a new Envoy in the place of one that stays in overload: by a hot restart, or, where that fails
// and the agent would serve the new one, by a cold one, which costs the connections that there are.
func (s *supervisor) replaceOverloaded(ctx context.Context, p *process, actions []string) error {
	if s.handing || s.current != p || p.gone() {
		return nil
	}
	why := strings.Join(actions, ",")
	s.cfg.Log.Error("Envoy stays in overload and is replaced", "pid", p.PID, "actions", why, "after", s.cfg.OverloadTime,
		"check", "which workload has the connections and requests, or a higher memory limit")
	// The Envoys before it hold memory of the same cgroup, which has room for two.
	for _, old := range s.drainers() {
		old.end(time.Second)
	}
	hot := s.hotRestart(ctx)
	if hot == nil {
		s.countOverload()
		return nil
	}
	if ctx.Err() != nil {
		return hot
	}
	conn, err := net.DialTimeout("unix", s.cfg.path(XDSSocket), time.Second)
	if err != nil {
		return fmt.Errorf("%w; it is not restarted cold, which needs the agent too: %w", hot, err)
	}
	conn.Close()
	s.cfg.Log.Error("Envoy in overload could not be hot-restarted and is restarted cold; its connections end", "pid", p.PID, "error", hot)
	p.end(2 * time.Second)
	s.set(func() { s.current = nil; s.restarts++ })
	s.forget(p.BaseID)
	if err := s.coldStart(ctx, false); err != nil {
		return err
	}
	s.countOverload()
	return nil
}

// countOverload counts a replacement of an Envoy that stayed in overload, also for the next supervisor.
func (s *supervisor) countOverload() {
	s.set(func() { s.overloads++ })
	s.save()
}
