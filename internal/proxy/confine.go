package proxy

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Envoy parses what anybody sends, so it keeps only what it needs of root: capabilities, system calls, and files. All of
// it holds for good, because no_new_privs is set.

// keptCapabilities are those that Envoy has, as far as its supervisor has them.
var keptCapabilities = []int{
	unix.CAP_NET_ADMIN,        // marks on connections, and clients' addresses as sources
	unix.CAP_NET_BIND_SERVICE, // ports of Gateways
	unix.CAP_SYS_ADMIN,        // entering pods' network namespaces; deniedCalls refuses what else it allows
	unix.CAP_DAC_READ_SEARCH,  // on a host the binary and the run directory may lie in somebody's home; no pod has it
}

// deniedCalls fail with EPERM. They reach other processes, the kernel's memory, file systems, and namespaces.
var deniedCalls = []uint32{
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE,
	unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOUNT_SETATTR, unix.SYS_MOVE_MOUNT,
	unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSPICK, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_FANOTIFY_INIT,
	unix.SYS_UNSHARE,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD,
	unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
	unix.SYS_SYSLOG, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_CLOCK_SETTIME, unix.SYS_SETTIMEOFDAY,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	// A user ID of 0 is enough for these to end, or to starve, any process of root. tgkill and kill do for Envoy itself.
	unix.SYS_TKILL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO, unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_SEND_SIGNAL,
	unix.SYS_SETPRIORITY, unix.SYS_IOPRIO_SET, unix.SYS_PROCESS_MRELEASE, unix.SYS_MIGRATE_PAGES, unix.SYS_MOVE_PAGES,
}

// ownCalls fail with EPERM for another process than the caller, whose ID is their first argument. What 0 means for them
// differs: the caller itself, or for kill its process group, which has Envoy's supervisor in it.
var ownCalls = []struct {
	number uint32
	zero   bool // 0 is allowed
}{
	{unix.SYS_KILL, false},
	{unix.SYS_TGKILL, false},
	{unix.SYS_PRLIMIT64, true},
	{unix.SYS_SCHED_SETAFFINITY, true},
	{unix.SYS_SCHED_SETSCHEDULER, true},
	{unix.SYS_SCHED_SETPARAM, true},
	{unix.SYS_SCHED_SETATTR, true},
}

// deniedCommands fail with EPERM. They choose the process that gets a signal when a descriptor is ready, and the signal.
var deniedCommands = []struct {
	number   uint32
	commands []uint32 // the second argument
}{
	{unix.SYS_FCNTL, []uint32{unix.F_SETOWN, unix.F_SETOWN_EX, unix.F_SETSIG}},
	{unix.SYS_IOCTL, []uint32{fiosetown, siocspgrp}},
}

// Commands of ioctl(2), as in asm-generic/sockios.h.
const (
	fiosetown = 0x8901
	siocspgrp = 0x8902
)

// newNamespaces are the flags of clone(2) that make namespaces.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWTIME

// confine takes from this thread, and from what it executes, what Envoy does not need. Envoy may write in runDir. With
// outlive, Envoy's request to get SIGTERM when its parent ends is a success without effect: its parent is the container
// runtime's shim, which ends with the pod.
func confine(runDir string, outlive bool) error {
	if err := confineFiles(runDir); err != nil {
		return fmt.Errorf("Landlock rules for Envoy: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs for Envoy: %w", err)
	}
	if err := dropCapabilities(keptCapabilities); err != nil {
		return fmt.Errorf("drop Envoy's capabilities: %w", err)
	}
	if err := filterCalls(callFilter(outlive, uint32(os.Getpid()))); err != nil {
		return fmt.Errorf("seccomp filter for Envoy: %w", err)
	}
	return nil
}

// confineFiles lets this process write and connect to sockets in runDir only, and share memory with the next Envoy. A
// kernel that cannot restrict something of it does not: Landlock is there from 5.13 on, for sockets from ABI 9 on.
func confineFiles(runDir string) error {
	return landlock.V9.BestEffort().RestrictPaths(
		landlock.RODirs("/"),
		landlock.RWDirs(runDir).WithResolveUnix(),
		landlock.RWDirs("/dev/shm"),
		landlock.RWFiles("/dev/null"),
	)
}

// dropCapabilities takes all capabilities but some from this thread, and from its bounding set where it may. What root
// executes gets its bounding set back, but not beyond its permitted set where no_new_privs is set (capabilities(7)).
func dropCapabilities(kept []int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var now, want [2]unix.CapUserData
	if err := unix.Capget(&header, &now[0]); err != nil {
		return err
	}
	for _, c := range kept {
		want[c/32].Permitted |= now[c/32].Permitted & (1 << (c % 32))
	}
	for i := range want {
		want[i].Effective = want[i].Permitted
	}
	if now[0].Effective&(1<<unix.CAP_SETPCAP) != 0 { // without it the container runtime has bounded the set
		if err := dropBounding(kept); err != nil {
			return fmt.Errorf("bounding set: %w", err)
		}
	}
	return unix.Capset(&header, &want[0])
}

// dropBounding takes all capabilities but some from this thread's bounding set. The thread must have CAP_SETPCAP.
func dropBounding(kept []int) error {
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(kept, c) {
			continue
		}
		// An older kernel does not know the last ones (EINVAL).
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("capability %d: %w", c, err)
		}
	}
	return nil
}

// callFilter returns the program that judges the system calls of the process pid, and of what it executes, on struct
// seccomp_data of seccomp(2).
func callFilter(outlive bool, pid uint32) []bpf.Instruction {
	// Offsets; both architectures are little-endian.
	const number, arch, first, second = 0, 4, 16, 24
	load := func(offset uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: offset, Size: 4} }
	errno := func(e uint32) bpf.Instruction { return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | e} }
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}

	p := []bpf.Instruction{
		load(arch), // 32-bit calls have other numbers
		bpf.JumpIf{Val: auditArch[runtime.GOARCH], SkipTrue: 1},
		errno(uint32(unix.EPERM)),
		load(number),
	}
	if runtime.GOARCH == "amd64" { // and so have those of x32
		p = append(p, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 1 << 30, SkipTrue: 1}, errno(uint32(unix.ENOSYS)))
	}
	for _, call := range deniedCalls {
		p = append(p, bpf.JumpIf{Val: call, SkipFalse: 1}, errno(uint32(unix.EPERM)))
	}
	for _, call := range ownCalls {
		zero := errno(uint32(unix.EPERM))
		if call.zero {
			zero = allow
		}
		p = append(p, bpf.JumpIf{Val: call.number, SkipFalse: 6},
			load(first), bpf.JumpIf{Val: pid, SkipFalse: 1}, allow,
			bpf.JumpIf{Val: 0, SkipFalse: 1}, zero, errno(uint32(unix.EPERM)))
	}
	for _, call := range deniedCommands {
		p = append(p, bpf.JumpIf{Val: call.number, SkipFalse: uint8(2*len(call.commands) + 2)}, load(second))
		for _, c := range call.commands {
			p = append(p, bpf.JumpIf{Val: c, SkipFalse: 1}, errno(uint32(unix.EPERM)))
		}
		p = append(p, allow)
	}
	// The flags of clone3 are in memory, where no filter sees them. The C library then tries clone.
	p = append(p, bpf.JumpIf{Val: unix.SYS_CLONE3, SkipFalse: 1}, errno(uint32(unix.ENOSYS)))
	p = append(p, bpf.JumpIf{Val: unix.SYS_CLONE, SkipFalse: 4},
		load(first), bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: newNamespaces, SkipFalse: 1}, errno(uint32(unix.EPERM)), allow)
	p = append(p, bpf.JumpIf{Val: unix.SYS_SETNS, SkipFalse: 4},
		load(second), bpf.JumpIf{Val: unix.CLONE_NEWNET, SkipTrue: 1}, errno(uint32(unix.EPERM)), allow)
	if outlive {
		p = append(p, bpf.JumpIf{Val: unix.SYS_PRCTL, SkipFalse: 4},
			load(first), bpf.JumpIf{Val: unix.PR_SET_PDEATHSIG, SkipFalse: 1}, errno(0), allow)
	}
	return append(p, allow)
}

// auditArch names the architecture in a seccomp filter.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// filterCalls puts a filter on this thread.
func filterCalls(program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// Older kernels slow down a process with a filter unless they are told not to.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return errno
	}
	return nil
}
