package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child with a log file and a pid file.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; nil for a process that is not a child
	err  error         // how; read after done
}

// launch says where and how a process runs.
type launch struct {
	dir    string                   // log/NAME and pid/NAME go here
	cgroup string                   // folder of the cgroup that it starts in; "" is that of this process
	within func(func() error) error // runs the start in the right namespaces; nil is here
	env    []string                 // added to this process's environment
	lasts  bool                     // it outlives this process; otherwise the kernel ends it with this one
}

// start starts a process in a session of its own, so that a terminal's signals do not reach it.
func start(l launch, name, path string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(l.dir, "log", name), cmd: exec.Command(path, args...), done: make(chan struct{})}
	pids := filepath.Join(l.dir, "pid")
	if err := errors.Join(os.MkdirAll(filepath.Dir(p.log), 0o755), os.MkdirAll(pids, 0o755)); err != nil {
		return nil, err
	}
	logFile, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer logFile.Close() // the child has its own copy
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = l.dir, logFile, logFile
	p.cmd.Env = append(os.Environ(), l.env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if l.cgroup != "" {
		cgroup, err := os.Open(l.cgroup)
		if err != nil {
			return nil, fmt.Errorf("cgroup of %s: %w", name, err)
		}
		defer cgroup.Close()
		p.cmd.SysProcAttr.UseCgroupFD, p.cmd.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
	}
	if !l.lasts {
		p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if l.within == nil {
		l.within = func(f func() error) error { return f() }
	}
	started := make(chan error, 1)
	go p.run(l, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, os.WriteFile(filepath.Join(pids, name), []byte(strconv.Itoa(p.cmd.Process.Pid)), 0o644)
}

// run stays on one thread, since the kernel sends the death signal when the thread ends that started the child.
func (p *process) run(l launch, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	if err := l.within(p.cmd.Start); err != nil {
		p.err = err
		started <- err
		return
	}
	started <- nil
	p.err = p.cmd.Wait()
}

// running gives a process that an earlier run of this package started, nil if it does not run.
func running(dir, name string) *process {
	b, err := os.ReadFile(filepath.Join(dir, "pid", name))
	if err != nil {
		return nil
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || !lives(pid) {
		return nil
	}
	p := &process{name: name, log: filepath.Join(dir, "log", name), cmd: &exec.Cmd{}}
	p.cmd.Process, err = os.FindProcess(pid)
	if err != nil {
		return nil
	}
	return p
}

func lives(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// gone reports whether it has ended.
func (p *process) gone() bool {
	if p.done == nil {
		return !lives(p.cmd.Process.Pid)
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop asks the process to end and, after the patience, ends it.
func (p *process) stop(patience time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	if p.goes(patience) {
		return
	}
	_ = p.cmd.Process.Kill()
	p.goes(10 * time.Second) // the kernel ends it, unless it hangs on a disk
}

func (p *process) goes(within time.Duration) bool {
	for deadline := time.Now().Add(within); !p.gone(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// ended is an error with the last lines of the log when the process has ended, which none should while it is waited for.
func (p *process) ended() error {
	if !p.gone() {
		return nil
	}
	b, err := os.ReadFile(p.log)
	return errors.Join(fmt.Errorf("%s ended: %s says:\n%s", p.name, p.log, tail(b, 5)), p.err, err)
}
