package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a running Envoy that need not be a child of this process.
type process struct {
	envoy
	pidfd  *os.File
	exited chan struct{} // closed when it has ended
	log    *forwarder    // nil where another supervisor started it
	live   atomic.Bool   // has been live once
	// version of Envoy, as 1.40.0; nil until it was asked.
	version atomic.Pointer[string]
	remote  bool // in another PID namespace: neither watched nor ended from here
}

var errGone = errors.New("the process has ended")

// attach watches a process. errGone if it has ended, or if its pid is now another's.
func attach(e envoy) (*process, error) {
	fd, err := unix.PidfdOpen(e.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", e.PID, err)
	}
	p := &process{envoy: e, pidfd: os.NewFile(uintptr(fd), "pidfd"), exited: make(chan struct{})}
	// Opened first, compared then: from here on the pid cannot become another's unnoticed.
	start, err := startTicks(e.PID)
	if err != nil || (e.StartTicks != 0 && start != e.StartTicks) {
		p.pidfd.Close()
		return nil, errGone
	}
	p.StartTicks = start
	go p.watch()
	return p, nil
}

func (p *process) watch() {
	defer close(p.exited)
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	// A pidfd becomes readable when its process ends.
	_ = conn.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0
	})
	// Only where this process is the init of its PID namespace is the Envoy its child.
	var ws syscall.WaitStatus
	_, _ = syscall.Wait4(p.PID, &ws, syscall.WNOHANG, nil)
	p.pidfd.Close()
}

// unwatch makes the process count as ended for this supervisor, and leaves it running.
func (p *process) unwatch() {
	if p.remote {
		return
	}
	p.pidfd.Close()
	if p.log != nil {
		p.log.pipe.Close()
	}
}

// endLog reads the log to its end, which comes a moment after the process's own, unless it left children behind.
func (p *process) endLog() {
	<-p.exited
	select {
	case <-p.log.done:
	case <-time.After(time.Second):
		p.log.pipe.Close()
		<-p.log.done
	}
}

func (p *process) gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (p *process) signal(s unix.Signal) {
	if p.remote {
		return
	}
	if conn, err := p.pidfd.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), s, nil, 0) })
	}
}

// end asks the process to end, and makes it after the grace time.
func (p *process) end(grace time.Duration) {
	if p.remote {
		return
	}
	p.signal(unix.SIGTERM)
	select {
	case <-p.exited:
		return
	case <-time.After(grace):
	}
	p.signal(unix.SIGKILL)
	<-p.exited
}

// waitUntil reports whether the process ended before the deadline and the context.
func (p *process) waitUntil(ctx context.Context, deadline time.Time) bool {
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-p.exited:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// startTicks is the time at which a process started, in clock ticks since boot: proc_pid_stat(5), field 22.
func startTicks(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, field 2, is in parentheses and may hold spaces and parentheses.
	_, rest, ok := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: %.100q", pid, stat)
	}
	if f[0] == "Z" || f[0] == "X" {
		return 0, errGone
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// maps reports whether a process has a file mapped.
func (p *process) maps(file string) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.PID))
	return err == nil && !p.gone() && strings.Contains(string(data), file)
}

// residentBytes of a process, 0 if it cannot be told.
func residentBytes(pid int) uint64 {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	if f := strings.Fields(string(statm)); len(f) > 1 {
		if pages, err := strconv.ParseUint(f[1], 10, 64); err == nil {
			return pages * uint64(os.Getpagesize())
		}
	}
	return 0
}
