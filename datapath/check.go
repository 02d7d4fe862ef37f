package datapath

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Problem is something that the datapath needs and this machine lacks.
type Problem struct {
	What string `json:"what"`
	How  string `json:"how"` // to get it
}

func (p Problem) String() string { return p.What + ": " + p.How }

// Check looks for what is missing. It changes nothing. Without the capabilities it cannot ask the kernel for more.
func Check(cfg Config) []Problem {
	out := checkCapabilities(effectiveCapabilities())
	cfg, err := cfg.withDefaults()
	if err != nil {
		out = append(out, Problem{"cgroup2 is not mounted", "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1"})
	} else if !isFS(cfg.CgroupRoot, unix.CGROUP2_SUPER_MAGIC) {
		out = append(out, Problem{cfg.CgroupRoot + " is not in a cgroup2 file system", "give a directory below the cgroup2 mount"})
	}
	if _, err := os.Stat("/sys/fs/bpf"); err != nil && cfg.PinDir == defaultPinDir {
		out = append(out, Problem{"there is no /sys/fs/bpf", "needs sysfs, and a kernel with CONFIG_BPF_SYSCALL; or name another directory for pins"})
	}
	if len(out) > 0 {
		return out
	}
	return append(checkKernel(), checkPrograms()...)
}

func isFS(path string, magic int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == magic
}

// effectiveCapabilities reads CapEff of proc_pid_status(5).
func effectiveCapabilities() uint64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			return n
		}
	}
	return 0
}

func checkCapabilities(have uint64) []Problem {
	var out []Problem
	for _, c := range []struct {
		bit  int
		name string
		why  string
	}{
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "to enter the pods' network namespaces and to load programs"},
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "to attach programs, to set rules and routes, to close connections"},
	} {
		if have&(1<<c.bit) == 0 {
			out = append(out, Problem{c.name + " is missing, " + c.why, "run as root; in a container, add the capability"})
		}
	}
	return out
}

func missingError(missing []Problem) error {
	errs := make([]error, len(missing))
	for i, p := range missing {
		errs[i] = errors.New(p.String())
	}
	return errors.Join(errs...)
}

// checkKernel probes for each program type, map type and helper; the versions are those in which they came.
func checkKernel() []Problem {
	var out []Problem
	probe := func(what, since string, err error) {
		if errors.Is(err, ebpf.ErrNotSupported) {
			out = append(out, Problem{"the kernel has no " + what, "needs Linux " + since + " with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL"})
		} else if err != nil {
			out = append(out, Problem{"cannot tell whether the kernel has " + what, err.Error()})
		}
	}
	for _, p := range []struct {
		t     ebpf.ProgramType
		since string
	}{{ebpf.CGroupSockAddr, "4.17"}, {ebpf.SockOps, "4.13"}, {ebpf.CGroupSockopt, "5.3"}, {ebpf.SkLookup, "5.9"}} {
		probe(fmt.Sprintf("BPF programs of type %s", p.t), p.since, features.HaveProgramType(p.t))
	}
	for _, m := range []struct {
		t     ebpf.MapType
		since string
	}{{ebpf.LRUHash, "4.10"}, {ebpf.SockHash, "4.18"}, {ebpf.SkStorage, "5.2"}, {ebpf.RingBuf, "5.8"}} {
		probe(fmt.Sprintf("BPF maps of type %s", m.t), m.since, features.HaveMapType(m.t))
	}
	for _, h := range []struct {
		t     ebpf.ProgramType
		f     asm.BuiltinFunc
		since string
	}{
		{ebpf.CGroupSockAddr, asm.FnGetNetnsCookie, "5.7"}, {ebpf.CGroupSockAddr, asm.FnSkcLookupTcp, "5.2"},
		{ebpf.CGroupSockAddr, asm.FnSkStorageGet, "5.8"}, {ebpf.SockOps, asm.FnGetNetnsCookie, "5.15"},
		{ebpf.SockOps, asm.FnSkStorageGet, "5.8"}, {ebpf.SkLookup, asm.FnSkAssign, "5.9"},
	} {
		probe(fmt.Sprintf("helper %s in programs of type %s", h.f, h.t), h.since, features.HaveProgramHelper(h.t, h.f))
	}
	return out
}

// checkPrograms lets the verifier judge every program, on maps that are gone afterwards.
func checkPrograms() []Problem {
	spec, err := loadSpec()
	if err == nil {
		for _, m := range spec.Maps {
			if m.Type == ebpf.Hash || m.Type == ebpf.LRUHash || m.Type == ebpf.SockHash {
				m.MaxEntries = 1024
			}
		}
		var coll *ebpf.Collection
		if coll, err = ebpf.NewCollection(spec); err == nil {
			coll.Close()
			return nil
		}
	}
	return []Problem{{"the kernel does not take the BPF programs: " + verifier(err).Error(), "needs Linux 5.15; please report it if yours is later"}}
}
