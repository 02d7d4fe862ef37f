package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/testenv"
)

// What the test binary is made to be by asConfined: a process that confines itself and executes itself as the next, and
// one that tries what Envoy must not do and tells the errno of each, 0 for success.
const (
	asConfined   = "WEFT_TEST_CONFINED"
	asConfinedIn = "WEFT_TEST_CONFINED_IN" // the run directory
	confined     = "confine"
	trying       = "try"
)

func runConfined(what string) int {
	if what == confined {
		runtime.LockOSThread()
		err := confine(os.Getenv(asConfinedIn), false)
		if err == nil {
			os.Setenv(asConfined, trying)
			err = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	runtime.LockOSThread() // never unlocked: some of it changes the thread
	errs := make(map[string]int)
	for name, f := range attempts {
		var errno syscall.Errno // 0 is success
		if err := f(); err != nil && !errors.As(err, &errno) {
			fmt.Fprintln(os.Stderr, name, err)
			return 1
		}
		errs[name] = int(errno)
	}
	if err := json.NewEncoder(os.Stdout).Encode(errs); err != nil {
		return 1
	}
	return 0
}

// call makes a system call with arguments that harm nothing where it is allowed.
func call(number uintptr, args ...uintptr) func() error {
	return func() error {
		args = append(args, 0, 0, 0, 0, 0, 0)
		if _, _, errno := syscall.RawSyscall6(number, args[0], args[1], args[2], args[3], args[4], args[5]); errno != 0 {
			return errno
		}
		return nil
	}
}

const none = ^uintptr(0) // -1

// enter enters a namespace of this process's own.
func enter(file string, flag int) func() error {
	return func() error {
		ns, err := os.Open("/proc/thread-self/ns/" + file)
		if err != nil {
			return err
		}
		defer ns.Close()
		return unix.Setns(int(ns.Fd()), flag)
	}
}

// start starts a process in a new network namespace.
func start() error {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	return cmd.Run()
}

// write makes a file below the run directory.
func write(name string) func() error {
	return func() error {
		file := filepath.Join(os.Getenv(asConfinedIn), name)
		f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer os.Remove(file)
		return f.Close()
	}
}

const (
	writesInside  = "writing in the run directory"
	writesOutside = "writing elsewhere"
)

const (
	killsItself   = "kill of itself"
	signalsItself = "tgkill of itself"
	limitsItself  = "prlimit64 of itself"
)

// parent calls with the ID of the process that started this one, which is of root too, as its first argument, and then others.
func parent(number uintptr, args ...uintptr) func() error {
	return call(number, append([]uintptr{uintptr(os.Getppid())}, args...)...)
}

// own calls with the ID of this process.
func own(number uintptr, args ...uintptr) func() error {
	return call(number, append([]uintptr{uintptr(os.Getpid())}, args...)...)
}

// signalOfDescriptor has a signal sent to a process when a descriptor is ready.
func signalOfDescriptor(number, command, value uintptr) func() error {
	return func() error {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fds[0])
		defer unix.Close(fds[1])
		return call(number, uintptr(fds[0]), command, value)()
	}
}

// signalByPID sends no signal to the parent by a descriptor of it.
func signalByPID() error {
	fd, err := unix.PidfdOpen(os.Getppid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.PidfdSendSignal(fd, 0, nil, 0)
}

var (
	same    = unix.Rlimit{}
	ownerOf = int32(os.Getppid())
)

const entersNetwork = "setns of a network namespace"

var attempts = map[string]func() error{
	writesInside:                        write("inside"),
	writesOutside:                       write("../outside"),
	entersNetwork:                       enter("net", unix.CLONE_NEWNET),
	"setns without a kind of namespace": enter("net", 0),
	"setns of a UTS namespace":          enter("uts", unix.CLONE_NEWUTS),
	"clone of a network namespace":      start,
	"unshare":                           call(unix.SYS_UNSHARE, unix.CLONE_NEWUTS),
	"ptrace":                            call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, none),
	"process_vm_readv":                  call(unix.SYS_PROCESS_VM_READV, none),
	"pidfd_getfd":                       call(unix.SYS_PIDFD_GETFD, none),
	"bpf":                               call(unix.SYS_BPF, none),
	"perf_event_open":                   call(unix.SYS_PERF_EVENT_OPEN),
	"userfaultfd":                       call(unix.SYS_USERFAULTFD, none),
	"mount":                             call(unix.SYS_MOUNT),
	"umount2":                           call(unix.SYS_UMOUNT2),
	"chroot":                            call(unix.SYS_CHROOT),
	"fsopen":                            call(unix.SYS_FSOPEN),
	"open_tree":                         call(unix.SYS_OPEN_TREE, none),
	"open_by_handle_at":                 call(unix.SYS_OPEN_BY_HANDLE_AT, none),
	"sethostname":                       call(unix.SYS_SETHOSTNAME, 0, 1),
	"keyctl":                            call(unix.SYS_KEYCTL, none),
	killsItself:                         own(unix.SYS_KILL, 0),
	signalsItself:                       func() error { return unix.Tgkill(os.Getpid(), unix.Gettid(), 0) },
	limitsItself:                        call(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, 0, uintptr(unsafe.Pointer(&same))),
	"kill":                              parent(unix.SYS_KILL, 0),
	"kill of all":                       call(unix.SYS_KILL, none, 0),
	"kill of the process group":         call(unix.SYS_KILL, 0, 0),
	"tkill":                             parent(unix.SYS_TKILL, 0),
	"tgkill":                            parent(unix.SYS_TGKILL, uintptr(os.Getppid()), 0),
	"pidfd_send_signal":                 signalByPID,
	"prlimit64":                         parent(unix.SYS_PRLIMIT64, unix.RLIMIT_NOFILE, 0, uintptr(unsafe.Pointer(&same))),
	"sched_setaffinity":                 parent(unix.SYS_SCHED_SETAFFINITY),
	"sched_setattr":                     parent(unix.SYS_SCHED_SETATTR, 0, 0),
	"setpriority":                       call(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, uintptr(os.Getppid()), 0),
	"fcntl F_SETOWN":                    signalOfDescriptor(unix.SYS_FCNTL, unix.F_SETOWN, uintptr(os.Getppid())),
	"fcntl F_SETSIG":                    signalOfDescriptor(unix.SYS_FCNTL, unix.F_SETSIG, uintptr(unix.SIGKILL)),
	"ioctl FIOSETOWN":                   signalOfDescriptor(unix.SYS_IOCTL, fiosetown, uintptr(unsafe.Pointer(&ownerOf))),
}

func TestConfine(t *testing.T) {
	testenv.Root(t)
	runDir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(runDir, 0o700); err != nil {
		t.Fatal(err)
	}
	try := func(how string) map[string]int {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), asConfined+"="+how, asConfinedIn+"="+runDir)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(how, err)
		}
		var errs map[string]int
		if err := json.Unmarshal(out, &errs); err != nil {
			t.Fatal(err)
		}
		return errs
	}
	control, errs := try(trying), try(confined)
	allowed := map[string]bool{entersNetwork: true, writesInside: true, killsItself: true, signalsItself: true, limitsItself: true}
	refusal := map[string]syscall.Errno{writesOutside: syscall.EACCES}
	if abi, err := ll.LandlockGetABIVersion(); err != nil || abi < 1 {
		t.Log("this kernel has no Landlock: files are not checked")
		allowed[writesOutside] = true
	}
	for name := range attempts {
		got, free := syscall.Errno(errs[name]), syscall.Errno(control[name])
		want := syscall.EPERM
		if allowed[name] {
			want = 0
		} else if e, ok := refusal[name]; ok {
			want = e
		}
		if got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if !allowed[name] && free == want {
			t.Errorf("%s: refused to any process, so this shows nothing", name)
		}
	}
}

// TestEnvoyIsConfined looks at the threads of a running Envoy, the first and one that took over from it.
func TestEnvoyIsConfined(t *testing.T) {
	n := newNode(t)
	defer n.showLogs()
	stop := n.run(n.cfg)
	st := n.untilLive()
	checkConfined(t, st.PID)
	if err := n.client().Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := n.until("the next Envoy is live", func(next *Status) bool { return next.Live && next.PID != st.PID })
	checkConfined(t, next.PID)
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func checkConfined(t *testing.T, pid int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads of Envoy %d: %v, %v", pid, tasks, err)
	}
	bounded := maySetBounds(t)
	var kept uint64
	for _, c := range keptCapabilities {
		kept |= 1 << c
	}
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that ended
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch name {
			case "CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd":
				if name == "CapBnd" && !bounded {
					continue // the container runtime's
				}
				if caps, err := strconv.ParseUint(value, 16, 64); err != nil || caps&^kept != 0 {
					t.Errorf("%s has %s %s, %v, want none beyond %x", file, name, value, err, kept)
				}
			case "NoNewPrivs":
				if value != "1" {
					t.Errorf("%s has %s %s", file, name, value)
				}
			case "Seccomp":
				if value != "2" { // a filter
					t.Errorf("%s has %s %s", file, name, value)
				}
			}
		}
	}
}

// maySetBounds reports whether this process may take capabilities from its bounding set.
func maySetBounds(t *testing.T) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var now [2]unix.CapUserData
	if err := unix.Capget(&header, &now[0]); err != nil {
		t.Fatal(err)
	}
	return now[0].Effective&(1<<unix.CAP_SETPCAP) != 0
}
