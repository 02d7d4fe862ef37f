package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"time"
)

// adopt makes the Envoys of a record that still run this supervisor's: the newest that is live serves, others drain.
func (s *supervisor) adopt(r record) {
	s.set(func() {
		s.restarts, s.overloads, s.crashes = max(s.restarts, r.Restarts), max(s.overloads, r.Overloads), max(s.crashes, r.Crashes)
	})
	alive := s.alive(r.Envoys)
	if len(alive) == 0 {
		for _, e := range r.Envoys {
			s.forget(e.BaseID)
		}
		return
	}
	newest := alive[len(alive)-1]
	busy, err := starting(newest.BaseID)
	if err != nil {
		s.cfg.Log.Warn("it cannot be told whether the Envoy that was left is live; it is taken for live", "error", err)
	}
	if !busy {
		s.succeed(alive)
		return
	}
	if last := r.Envoys[len(r.Envoys)-1]; last.PID != newest.PID {
		// The one that was starting is dead; the one before it serves, and would let none start after it.
		if err := clearStarting(newest.BaseID); err != nil {
			s.cfg.Log.Warn("the Envoy that serves cannot be hot-restarted any more", "error", err)
		}
		s.succeed(alive)
		return
	}
	if len(alive) == 1 {
		s.set(func() { s.current = newest }) // not live, or not yet
		return
	}
	s.succeed(alive[:len(alive)-1])
	if s.abandon(newest, s.current) {
		s.replace(newest, s.current)
	} else {
		s.cfg.Log.Warn("a hot restart whose supervisor is gone was given up", "pid", newest.PID)
	}
}

// succeed makes the last of some Envoys the one that serves; those before it drain.
func (s *supervisor) succeed(alive []*process) {
	newest := alive[len(alive)-1]
	newest.live.Store(true)
	s.set(func() { s.current = newest })
	for _, p := range alive[:len(alive)-1] {
		s.retire(p)
	}
}

// alive watches the Envoys that still run and are not known to be draining.
func (s *supervisor) alive(envoys []envoy) []*process {
	var out []*process
	draining := s.drainers()
	for _, e := range envoys {
		same := func(p *process) bool { return p.PID == e.PID && p.StartTicks == e.StartTicks }
		if slices.ContainsFunc(draining, same) {
			continue
		}
		if s.current != nil && same(s.current) {
			if !s.current.gone() {
				out = append(out, s.current)
			}
			continue
		}
		p, err := attach(e)
		if err == nil {
			out = append(out, p)
		} else if !errors.Is(err, errGone) {
			s.cfg.Log.Error("an Envoy of the supervisor before cannot be adopted", "error", err)
		}
	}
	return out
}

// remoteProcess stands for an Envoy in another PID namespace, which only its own supervisor can watch and end.
func remoteProcess(e envoy) *process {
	p := &process{envoy: e, exited: make(chan struct{}), remote: true}
	p.live.Store(true)
	return p
}

// takeOver starts the next Envoy beside another supervisor's, and then takes its lock. ErrNotRunning if that supervisor
// does not answer.
func (s *supervisor) takeOver(ctx context.Context) (*os.File, error) {
	offer, err := s.askHandover(ctx)
	if err != nil {
		return nil, err
	}
	defer offer.close() // before the commit it means: go on without me
	taken := false
	defer func() {
		if !taken {
			s.unwatch()
		}
	}()
	if err := s.joinOffer(offer.record); err != nil {
		return nil, err
	}
	s.cfg.Log.Info("taking over from another weft proxy", "envoy", s.current.PID, "epoch", s.current.Epoch)
	if err := s.hotRestart(ctx); err != nil {
		return nil, fmt.Errorf("take over from another weft proxy, which goes on: %w", err)
	}
	if err := (&Client{RunDir: s.cfg.RunDir}).call(ctx, http.MethodPost, "/handover/commit", nil, nil); err != nil {
		return nil, fmt.Errorf("take over: the new Envoy serves, and the other weft proxy does not let go: %w", err)
	}
	for range 100 { // it has let go already: a formality
		lock, err := s.cfg.lock()
		if !errors.Is(err, errLocked) {
			taken = err == nil
			return lock, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errLocked
}

// joinOffer knows the Envoys that the other supervisor has.
func (s *supervisor) joinOffer(r record) error {
	if len(r.Envoys) == 0 {
		return errors.New("the other weft proxy has no Envoy at the moment; try again")
	}
	if r.Boot == bootID() {
		s.adopt(r)
	} else {
		serving := r.Envoys[len(r.Envoys)-1]
		s.set(func() {
			s.restarts, s.overloads, s.crashes, s.current = r.Restarts, r.Overloads, r.Crashes, remoteProcess(serving)
		})
	}
	if s.current == nil {
		return errors.New("the other weft proxy's Envoy is not live yet; try again when it is")
	}
	return nil
}

// offer is a handover that the other supervisor holds open.
type offer struct {
	record record
	close  func()
}

// askHandover asks for the other's Envoy. The connection stays open: with its end the other takes the offer back.
func (s *supervisor) askHandover(ctx context.Context) (*offer, error) {
	path := s.cfg.path(ControlSocket)
	ctx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://proxy/handover", nil)
	if err != nil {
		cancel()
		return nil, err
	}
	h := unixClient(path)
	resp, err := h.Do(req)
	if err != nil {
		cancel()
		var dial *net.OpError
		if errors.As(err, &dial) && dial.Op == "dial" {
			return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
		}
		return nil, fmt.Errorf("ask the other weft proxy to hand over: %w", err)
	}
	end := func() {
		cancel()
		resp.Body.Close()
		h.CloseIdleConnections()
	}
	dec := json.NewDecoder(resp.Body)
	if resp.StatusCode != http.StatusOK {
		var text bytes.Buffer
		_, _ = text.ReadFrom(resp.Body)
		end()
		return nil, fmt.Errorf("the other weft proxy does not hand over: %s", bytes.TrimSpace(text.Bytes()))
	}
	var r record
	if err := dec.Decode(&r); err != nil {
		end()
		return nil, fmt.Errorf("the other weft proxy's answer: %w", err)
	}
	return &offer{record: r, close: end}, nil
}

// leave waits for the Envoys of a supervisor that handed over. The new one's Envoy ends them, and its supervisor if that
// does not come about; of this one they have the log.
func (s *supervisor) leave(ctx context.Context) error {
	s.stopServing()
	s.cfg.Log.Info("another weft proxy took over; waiting for the old Envoy to drain", "pid", s.current.PID)
	deadline := time.Now().Add(s.cfg.ParentShutdownTime + 5*time.Second)
	for _, p := range append(s.drainers(), s.current) {
		if !p.waitUntil(ctx, deadline) && ctx.Err() == nil {
			s.cfg.Log.Warn("the old Envoy did not end in time and is ended", "pid", p.PID)
			p.end(time.Second)
		}
		if !p.gone() {
			s.unwatch()
			break
		}
	}
	s.unwatchTunnels()
	return nil
}

// detach leaves Envoy serving, for the next supervisor to adopt.
func (s *supervisor) detach() {
	if p := s.current; p != nil && !p.gone() {
		s.cfg.Log.Info("Envoy goes on serving without a supervisor", "pid", p.PID)
	}
	s.save()
	s.set(func() { s.owner = false }) // from here on it cannot tell what is used
	s.unwatch()
}

// standBy waits until the supervisor that took over is gone, and gives its lock; nil when ctx is done before. That one
// is asked first, and not the lock: between its Envoy's start and its hold of the lock a try would be in its way.
func (c Config) standBy(ctx context.Context) *os.File {
	const patience = 5 // seconds without an answer
	client := &Client{RunDir: c.RunDir}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for silent := 0; ; silent++ {
		if _, err := client.Status(ctx); !errors.Is(err, ErrNotRunning) {
			silent = 0
		}
		if silent >= patience {
			if lock, err := c.lock(); err == nil {
				return lock
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// unwatch leaves running Envoys to the new supervisor.
func (s *supervisor) unwatch() {
	for _, p := range append(s.drainers(), s.current) {
		if p != nil {
			p.unwatch()
		}
	}
	s.unwatchTunnels()
}
