package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// supervisor keeps one Envoy serving. Its loop is the only one that changes it.
type supervisor struct {
	cfg      Config
	cgroup   string
	admin    *admin
	requests chan request
	wg       sync.WaitGroup // of goroutines that watch processes

	stopServing func() // of the control socket
	leaveTunnel func() // makes keepTunnel return

	mu        sync.Mutex // guards what follows, for Status
	current   *process   // nil while none runs
	draining  []*process
	restarts  int
	overloads int // of them, those in place of an Envoy that stayed in overload
	crashes   int
	lastError string
	owner     bool         // has the lock
	handing   bool         // another supervisor is starting the next Envoy
	handed    bool         // it has
	tunnels   []*process   // by age; the last one takes new connections if it has no end in sight
	tunnel    TunnelStatus // of the last one of tunnels
	polled    *poll        // what the last poll saw; nil if there was none
	losses    losses
	changed   chan struct{} // closed with the next change; nil if nobody waits
}

// request is work that the control socket asks the loop to do.
type request struct {
	do   func(context.Context) error
	done chan error
}

// Run supervises an Envoy, and weft tunnel if Config has it, until ctx is done (Envoy is then drained and ended, unless
// this is InPod) or another supervisor took over (nil, when the Envoy of this one has ended; InPod it waits for ctx, or for
// the other's end). An Envoy that an earlier supervisor left behind is adopted by a hot restart.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		return fmt.Errorf("proxy: make the run directory: %w", err)
	}
	most, err := Connections(cfg.MaxConnections)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	if most < cfg.MaxConnections {
		cfg.Log.Warn("Envoy gets fewer connections than were asked for; raise the limit of open files (LimitNOFILE of the container runtime, ulimit -n)",
			"asked", cfg.MaxConnections, "connections", most)
		cfg.MaxConnections = most
	}
	h, err := newHealth(cfg)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	defer h.close()
	if cfg.LogFile != nil {
		bounding, done := context.WithCancel(context.Background()) // it goes on while Envoy drains
		var bounded sync.WaitGroup
		bounded.Go(func() { cfg.boundLog(bounding) })
		defer bounded.Wait()
		defer done()
	}
	var lock *os.File // held already
	for {
		if err := supervise(ctx, cfg, h, lock); err != nil {
			return fmt.Errorf("proxy: %w", err)
		}
		if ctx.Err() != nil || !cfg.InPod {
			return nil
		}
		if lock = cfg.standBy(ctx); lock == nil {
			return nil
		}
		cfg.Log.Info("the weft proxy that took over is gone; this one goes on in its place")
	}
}

// supervise is one time of holding the lock, which it closes.
func supervise(ctx context.Context, cfg Config, h *health, lock *os.File) (err error) {
	s := &supervisor{cfg: cfg, admin: newAdmin(cfg.path(AdminSocket)), requests: make(chan request)}
	if s.cgroup, err = prepareCgroup(cfg.CgroupRoot, cfg.Cgroup); err != nil {
		return err
	}
	if err := limitMemory(s.cgroup, cfg.MemoryLimitBytes, len(cfg.Tunnel) > 0); err != nil {
		cfg.Log.Warn("Envoy's cgroup has no limit of memory", "error", err)
	}
	defer s.wg.Wait()
	if lock == nil {
		if lock, err = s.acquire(ctx); err != nil {
			return err
		}
	}
	defer lock.Close()
	s.set(func() { s.owner = true })
	h.watch(s)
	listener, err := s.listen()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.stopServing = sync.OnceFunc(s.serve(ctx, listener, lock))
	defer s.stopServing()
	s.adoptTunnels()
	if err := s.begin(ctx); err != nil {
		return err
	}
	s.startKeepingTunnel(ctx)
	defer s.leaveTunnel()
	var watch sync.WaitGroup // apart from s.wg, which the loop waits for before ctx ends
	watch.Go(func() { s.watchEnvoy(ctx) })
	defer func() {
		cancel()
		watch.Wait()
	}()
	return s.loop(ctx)
}

// acquire gets the lock: at once, or by taking over from who has it.
func (s *supervisor) acquire(ctx context.Context) (*os.File, error) {
	var last error
	for range 50 { // 5 s: the other may be just starting, or just ending
		lock, err := s.cfg.lock()
		if !errors.Is(err, errLocked) {
			return lock, err
		}
		lock, last = s.takeOver(ctx)
		if !errors.Is(last, ErrNotRunning) {
			return lock, last
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil, fmt.Errorf("%w, and it does not answer: %w", errLocked, last)
}

func (s *supervisor) listen() (net.Listener, error) {
	path := s.cfg.path(ControlSocket)
	// The lock is ours, so a socket that is there is nobody's.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on the control socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // after a handover the path is the next supervisor's
	return l, os.Chmod(path, 0o600)
}

// begin makes an Envoy run: the one taken over, an adopted one, or a new one.
func (s *supervisor) begin(ctx context.Context) error {
	if s.current != nil {
		return nil
	}
	s.adopt(s.cfg.loadRecord())
	if s.current == nil {
		return s.coldStart(ctx, true)
	}
	s.cfg.Log.Info("an Envoy without a supervisor is adopted", "pid", s.current.PID, "epoch", s.current.Epoch)
	soon, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if s.untilLive(soon, s.current, nil) != nil {
		s.cfg.Log.Warn("the adopted Envoy still starts; its log is lost until a restart", "pid", s.current.PID)
		s.awaitLive(ctx, s.current)
		return nil
	}
	if err := s.hotRestart(ctx); err != nil && ctx.Err() == nil {
		s.fail("the adopted Envoy could not be hot-restarted; it goes on serving, without its log", err)
	}
	return nil
}

// loop acts on what happens, one thing at a time.
func (s *supervisor) loop(ctx context.Context) error {
	var failures int
	var again <-chan time.Time
	look := time.NewTicker(socketPoll)
	defer look.Stop()
	lost := 0
	for !s.handed {
		var exited <-chan struct{}
		if s.current != nil && !s.handing {
			exited = s.current.exited
		}
		if s.current == nil && again == nil && !s.handing {
			again = time.After(pause(failures))
		}
		select {
		case <-ctx.Done():
			return s.finish()
		case <-look.C:
			if lost++; s.handing || s.reachable() {
				lost = 0
			}
			if lost == socketPolls {
				// Nobody could adopt this Envoy.
				return errors.Join(fmt.Errorf("the run directory %s is gone, and with it the agent's socket: Envoy is ended, and the next weft proxy begins anew", s.cfg.RunDir), s.stop(ctx))
			}
		case <-exited:
			if time.Since(s.current.Since) > time.Minute {
				failures = 0
			}
			s.crashed()
		case <-again:
			again = nil
			failures++
			if s.current != nil { // a request was faster
				continue
			}
			if err := s.coldStart(ctx, false); err != nil {
				s.fail("Envoy could not be started; it will be tried again", err)
			}
		case r := <-s.requests:
			r.done <- r.do(ctx)
		}
	}
	return s.leave(ctx)
}

// socketPoll is how often is looked whether the control socket is still there, socketPolls how often in a row it is not
// until all begins anew: the agent does so sooner, and the next Envoy needs it.
const socketPoll, socketPolls = 2 * time.Second, 5

// reachable reports whether the control socket is there. If it is not, somebody has removed the run directory: Envoy cannot
// reach the agent that starts after that, nor another supervisor this one.
func (s *supervisor) reachable() bool {
	_, err := os.Stat(s.cfg.path(ControlSocket))
	return !errors.Is(err, os.ErrNotExist)
}

// pause before a start: none before the first, then 200 ms, doubling up to 10 s.
func pause(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	return min(100*time.Millisecond<<min(failures, 10), 10*time.Second)
}

// ask lets the loop do something.
func (s *supervisor) ask(ctx context.Context, do func(context.Context) error) error {
	r := request{do: do, done: make(chan error, 1)}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// crashed takes note that the serving Envoy has ended by itself.
func (s *supervisor) crashed() {
	p := s.current
	s.set(func() {
		s.crashes++
		s.current = nil
	})
	// The lines that it wrote last are on their way.
	if p.log != nil {
		<-p.log.done
	}
	err := fmt.Errorf("it had pid %d, epoch %d, and ran for %v", p.PID, p.Epoch, time.Since(p.Since).Round(time.Millisecond))
	if words := p.log.lastWords(); words != "" {
		err = fmt.Errorf("%w; its last words: %s", err, words)
	}
	s.fail("Envoy ended by itself", err)
	s.forget(p.BaseID)
	s.save()
}

// forget cleans up after a base ID that no process uses any more. It is not for a supervisor without the lock to tell.
func (s *supervisor) forget(baseID uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := func(p *process) bool { return p != nil && !p.gone() && p.BaseID == baseID }
	if s.owner && !s.handed && !used(s.current) && !slices.ContainsFunc(s.draining, used) {
		s.cfg.forget(baseID)
	}
}

// fail logs an error and shows it in Status.
func (s *supervisor) fail(what string, err error) {
	s.cfg.Log.Error(what, "error", err)
	s.set(func() { s.lastError = what + ": " + err.Error() })
}

func (s *supervisor) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// awaitChange returns a channel that is closed after the next change of what s.mu guards.
func (s *supervisor) awaitChange() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// save remembers the Envoys. A disk that is full costs the adoption by the next supervisor, not the traffic.
func (s *supervisor) save(starting ...*process) {
	if err := s.cfg.saveRecord(s.record(starting...)); err != nil {
		s.cfg.Log.Error("a supervisor after this one could not adopt Envoy", "error", err)
	}
}

func (s *supervisor) record(starting ...*process) record {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := record{Boot: bootID(), Restarts: s.restarts, Overloads: s.overloads, Crashes: s.crashes}
	all := append(slices.Clone(s.draining), s.current)
	for _, p := range append(all, starting...) {
		if p != nil && !p.gone() {
			r.Envoys = append(r.Envoys, p.envoy)
		}
	}
	return r
}
