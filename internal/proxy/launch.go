package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The names by which this executable calls itself to start an Envoy that is not its child.
const (
	launcherName = "weft-envoy-launcher"
	gateName     = "weft-envoy-gate"
)

// Envoy asks to get SIGTERM when its parent ends, so its parent may not be the supervisor. The supervisor starts a
// launcher, in Envoy's cgroup; the launcher starts a gate, tells its pid, and ends; the gate waits for that end and
// becomes Envoy. This is an init function because it must come before anything that the program itself does, in every
// program that supervises.
func init() {
	switch os.Args[0] {
	case launcherName:
		exitOn(runLauncher())
	case gateName:
		exitOn(runGate())
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "critical\tlaunch\t"+err.Error())
		os.Exit(127)
	}
	os.Exit(0)
}

// runLauncher gets "<pod or host> <run directory> <name> <binary> <flags>..." and writes the pid of what becomes
// Envoy, or weft tunnel, to stdout.
func runLauncher() error {
	if os.Args[1] == inPod {
		if err := leaveOldHierarchies(); err != nil {
			return err
		}
	}
	pid, err := startGate(os.Args[1:])
	if err != nil {
		return err
	}
	_, err = fmt.Println(pid)
	return err
}

// startGate starts a gate, which waits until this process has ended, and returns its pid.
func startGate(args []string) (int, error) {
	// The end that is written to is no os.File, which would be closed when it is collected as garbage.
	var hold [2]int
	if err := unix.Pipe2(hold[:], unix.O_CLOEXEC); err != nil {
		return 0, err
	}
	read := os.NewFile(uintptr(hold[0]), "hold")
	defer read.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	p, err := os.StartProcess("/proc/self/exe", append([]string{gateName}, args...), &os.ProcAttr{
		Files: []*os.File{null, null, os.Stderr, read},
		// Ctrl-C in the supervisor's terminal is the supervisor's to act on.
		Sys: &syscall.SysProcAttr{Setsid: true},
		Env: os.Environ(),
	})
	if err != nil {
		return 0, err
	}
	return p.Pid, nil
}

// runGate waits until the launcher has ended, and becomes Envoy.
func runGate() error {
	hold := os.NewFile(3, "hold")
	if _, err := io.Copy(io.Discard, hold); err != nil {
		return fmt.Errorf("wait for the launcher: %w", err)
	}
	hold.Close()
	if err := keepNetNS(); err != nil {
		return err
	}
	runtime.LockOSThread() // the one that executes
	if err := confine(os.Args[2], os.Args[1] == inPod); err != nil {
		return err
	}
	name, binary := os.Args[3], os.Args[4]
	return fmt.Errorf("run %s: %w", binary, syscall.Exec(binary, append([]string{name}, os.Args[5:]...), os.Environ()))
}

// NetNS leads, in what is launched, to the network namespace that it started in, wherever its threads are now.
const NetNS = "/proc/self/fd/3"

const netNSDescriptor = 3

// keepNetNS makes NetNS lead to the network namespace of this process, also after it executes another program.
func keepNetNS() error {
	ns, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0) // not closed by exec
	if err != nil || ns == netNSDescriptor {
		return err
	}
	defer unix.Close(ns)
	return unix.Dup3(ns, netNSDescriptor, 0)
}

// The places that an Envoy can be started from.
const (
	inPod  = "pod"
	onHost = "host"
)

// launch starts a binary by a name in the supervisor's cgroup for Envoys and gives its pid. Lines that it writes go to stderr,
// which launch does not close.
func (s *supervisor) launch(stderr *os.File, name, binary string, flags []string) (int, error) {
	dir, err := os.Open(s.cgroup)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	place := onHost
	if s.cfg.InPod {
		place = inPod
	}
	var out bytes.Buffer
	run := func() error {
		cmd := &exec.Cmd{
			Path: "/proc/self/exe",
			Args: append([]string{launcherName, place, s.cfg.RunDir, name, binary}, flags...),
			Env:  os.Environ(), Stdout: &out, Stderr: stderr, Dir: "/",
			SysProcAttr: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())},
		}
		return cmd.Run()
	}
	if err = run(); s.cfg.InPod && errors.Is(err, syscall.ENOENT) { // the kernel's answer where it is out of bounds
		err = inCgroupNamespace(hostCgroups, run)
	}
	if err != nil {
		return 0, fmt.Errorf("start %s in the cgroup %s: %w", binary, s.cgroup, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil {
		return 0, fmt.Errorf("start %s: the launcher said %.100q", binary, out.String())
	}
	return pid, nil
}

// prepareCgroup makes the cgroup below a root, "" for the cgroup2 mount, and gives its directory.
func prepareCgroup(root, name string) (string, error) {
	if root == "" {
		var err error
		if root, err = cgroupMount(); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(root, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make Envoy's cgroup: %w", err)
	}
	return dir, nil
}

func cgroupMount() (string, error) {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")
}

// cgroupPIDs lists the processes in a cgroup that this process can see.
func cgroupPIDs(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var out []int
	for f := range strings.FieldsSeq(string(data)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			out = append(out, pid)
		}
	}
	return out, nil
}
