package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// restart is what a user asks for: hot where an Envoy serves, else a cold start.
func (s *supervisor) restart(ctx context.Context) error {
	if s.handing {
		return errors.New("another weft proxy is taking over; ask that one")
	}
	if s.current != nil && s.isLive(ctx, s.current) {
		return s.note(s.hotRestart(ctx))
	}
	if p := s.current; p != nil {
		p.end(2 * time.Second) // it serves nobody yet
		s.set(func() { s.current = nil })
		s.forget(p.BaseID)
	}
	if err := s.coldStart(ctx, true); err != nil {
		return s.note(err)
	}
	s.set(func() { s.restarts++ })
	ctx, cancel := context.WithTimeout(ctx, s.cfg.startTimeout)
	defer cancel()
	return s.note(s.untilLive(ctx, s.current, nil))
}

// note shows the outcome of a restart in Status.
func (s *supervisor) note(err error) error {
	if err != nil {
		s.fail("the restart failed", err)
	}
	return err
}

// hotRestart puts a new Envoy, of the binary and the bootstrap as they are now, in the place of the present one. On an
// error that one goes on serving. The new one takes the listening sockets over when it has its configuration; only then
// does it tell the old one to drain.
func (s *supervisor) hotRestart(ctx context.Context) error {
	old := s.current
	program, bootstrap, err := s.prepare()
	if err != nil {
		return err
	}
	if err := s.validate(ctx, program, bootstrap); err != nil {
		return err
	}
	if err := compatible(ctx, program, old.BaseID); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.startTimeout)
	defer cancel()
	if err := s.untilAgent(ctx, old); err != nil {
		return err
	}
	next, err := s.start(program, bootstrap, old.Epoch+1, old.BaseID)
	if err != nil {
		return err
	}
	s.save(next)
	if err := s.untilLive(ctx, next, old); err != nil && !s.abandon(next, old) {
		s.save()
		if words := next.log.lastWords(); words != "" {
			err = fmt.Errorf("%w: %s", err, words)
		}
		return fmt.Errorf("the new Envoy (pid %d, epoch %d): %w", next.PID, next.Epoch, err)
	}
	s.set(func() { s.restarts++ })
	s.replace(next, old)
	s.cfg.Log.Info("Envoy is hot-restarted", "pid", next.PID, "epoch", next.Epoch, "oldPid", old.PID,
		"after", time.Since(next.Since).Round(time.Millisecond))
	return nil
}

// replace makes a live Envoy the one that serves.
func (s *supervisor) replace(next, old *process) {
	next.live.Store(true)
	s.set(func() {
		s.current = next
		s.lastError = ""
	})
	s.retire(old)
	s.save()
}

// untilAgent waits for the agent: without it the new Envoy would wait for its configuration in vain.
func (s *supervisor) untilAgent(ctx context.Context, old *process) error {
	path := s.cfg.path(XDSSocket)
	for {
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent does not answer, and a new Envoy would get no configuration: %w; start weft agent, then restart Envoy", err)
		case <-old.exited:
			return errors.New("Envoy ended meanwhile")
		case <-time.After(2 * probeInterval):
		}
	}
}

// The layout of Envoy's shared memory since hot restart version 11: size, version, two pthread mutexes, flags.
const (
	sharedVersion  = 11
	sharedSize     = 104
	flagsOffset    = 96
	initializing   = 1
	layoutAsString = "11.104"
)

// compatible refuses a binary that cannot take over from the one that serves.
func compatible(ctx context.Context, program string, baseID uint32) error {
	shm, err := os.ReadFile(sharedMemory(baseID))
	if err == nil && len(shm) < 16 {
		err = errors.New("it is cut off")
	}
	if err != nil {
		return fmt.Errorf("the shared memory of the Envoy that serves cannot be read (%w); it can only be restarted cold: end it, and it is started anew", err)
	}
	serving := fmt.Sprintf("%d.%d", binary.NativeEndian.Uint64(shm[8:]), binary.NativeEndian.Uint64(shm))
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--hot-restart-version").CombinedOutput() // it answers on stderr
	if err != nil {
		return fmt.Errorf("ask %s for its hot restart version: %w", program, err)
	}
	if offered := strings.TrimSpace(string(out)); offered != serving {
		return fmt.Errorf("%s has hot restart version %s and the Envoy that serves has %s: it cannot be hot-restarted into", program, offered, serving)
	}
	return nil
}

// starting reads the flag that an Envoy holds from its start until it has told its predecessor to drain.
func starting(baseID uint32) (bool, error) {
	shm, err := os.ReadFile(sharedMemory(baseID))
	if err != nil {
		return false, err
	}
	if len(shm) != sharedSize || binary.NativeEndian.Uint64(shm) != sharedSize || binary.NativeEndian.Uint64(shm[8:]) != sharedVersion {
		return false, fmt.Errorf("%s is not of version %s", sharedMemory(baseID), layoutAsString)
	}
	return binary.NativeEndian.Uint64(shm[flagsOffset:])&initializing != 0, nil
}

// abandon gives an Envoy up that did not become live in time. True: at the last moment it did, and stays. What a dead one
// leaves in the shared memory is taken back, or no later one could start.
func (s *supervisor) abandon(next, old *process) (stays bool) {
	next.signal(unix.SIGSTOP) // it does not become live while it is looked at
	busy, err := starting(next.BaseID)
	if err == nil && !busy && next.maps(sharedMemory(next.BaseID)) {
		next.signal(unix.SIGCONT)
		return true
	}
	next.signal(unix.SIGKILL)
	<-next.exited
	if next.log != nil {
		<-next.log.done
	}
	if err == nil && busy && !old.gone() {
		err = clearStarting(next.BaseID)
	}
	if err != nil {
		s.cfg.Log.Warn("the Envoy that serves cannot be hot-restarted any more", "error", err)
	}
	return false
}

func clearStarting(baseID uint32) error {
	f, err := os.OpenFile(sharedMemory(baseID), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, 8), flagsOffset)
	return errors.Join(err, f.Close())
}
