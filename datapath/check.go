package datapath

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/sockdiag"
)

// Finding reports whether this machine has one thing that the datapath needs.
type Finding struct {
	Name string // of what was looked for, in a few words
	What string // was found, or is missing
	How  string // to get what is missing; "" where nothing is
}

// Missing reports whether the datapath cannot do with what was found.
func (f Finding) Missing() bool { return f.How != "" }

func (f Finding) String() string {
	if !f.Missing() {
		return f.What
	}
	return f.What + ": " + f.How
}

// Check looks for all that the datapath needs. It changes nothing. The kernel is asked for its BPF only where the
// capabilities and the file systems are there.
func Check(cfg Config) []Finding {
	out := checkCapabilities(effectiveCapabilities())
	out = append(out, checkFileSystems(cfg)...)
	if len(missing(out)) > 0 {
		return out
	}
	return append(append(out, checkKernel()...), checkDestroy(), checkPrograms())
}

func missing(all []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(all), func(f Finding) bool { return !f.Missing() })
}

func checkFileSystems(cfg Config) []Finding {
	cgroup := Finding{Name: "cgroup2"}
	cfg, err := cfg.withDefaults()
	switch {
	case err != nil:
		cgroup.What, cgroup.How = "cgroup2 is not mounted", "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1"
	case !isFS(cfg.CgroupRoot, unix.CGROUP2_SUPER_MAGIC):
		cgroup.What, cgroup.How = cfg.CgroupRoot+" is not in a cgroup2 file system", "give a directory below the cgroup2 mount"
	default:
		cgroup.What = "programs go to " + cfg.CgroupRoot
	}
	return []Finding{cgroup, checkBPFFS(cfg.PinDir)}
}

// checkBPFFS looks for a place for pins; the agent mounts a bpffs where none is.
func checkBPFFS(pins string) Finding {
	f := Finding{Name: "bpffs"}
	if pins != defaultPinDir {
		f.What = "pins go to " + pins
		return f
	}
	switch ok, err := isBPFFS(sysBPF); {
	case err != nil:
		f.What, f.How = "there is no "+sysBPF, "needs sysfs, and a kernel with CONFIG_BPF_SYSCALL; or name another directory for pins"
	case ok:
		f.What = "mounted on " + sysBPF
	default:
		f.What = "not mounted on " + sysBPF + " yet; weft agent does it"
	}
	return f
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

func checkCapabilities(have uint64) []Finding {
	var out []Finding
	for _, c := range []struct {
		bit  int
		name string
		why  string
	}{
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "to enter the pods' network namespaces and to load programs"},
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "to attach programs, to set rules and routes, to close connections"},
	} {
		f := Finding{Name: c.name, What: c.why}
		if have&(1<<c.bit) == 0 {
			f.What, f.How = c.name+" is missing, "+c.why, "run as root; in a container, add the capability"
		}
		out = append(out, f)
	}
	return out
}

func missingError(missing []Finding) error {
	errs := make([]error, len(missing))
	for i, f := range missing {
		errs[i] = errors.New(f.String())
	}
	return errors.Join(errs...)
}

// features that are asked of the kernel; the versions are those in which they came.
var (
	programTypes = []struct {
		t     ebpf.ProgramType
		since string
	}{{ebpf.CGroupSockAddr, "4.17"}, {ebpf.SockOps, "4.13"}, {ebpf.CGroupSockopt, "5.3"}, {ebpf.SkLookup, "5.9"}, {ebpf.SkMsg, "4.17"},
		{ebpf.CGroupSock, "4.10"}}
	mapTypes = []struct {
		t     ebpf.MapType
		since string
	}{{ebpf.LRUHash, "4.10"}, {ebpf.SockHash, "4.18"}, {ebpf.SkStorage, "5.2"}, {ebpf.RingBuf, "5.8"}}
	helpers = []struct {
		t     ebpf.ProgramType
		f     asm.BuiltinFunc
		since string
	}{
		{ebpf.CGroupSockAddr, asm.FnGetNetnsCookie, "5.7"}, {ebpf.CGroupSockAddr, asm.FnSkcLookupTcp, "5.2"},
		{ebpf.CGroupSockAddr, asm.FnSkStorageGet, "5.8"}, {ebpf.SockOps, asm.FnGetNetnsCookie, "5.15"},
		{ebpf.SockOps, asm.FnSkStorageGet, "5.8"}, {ebpf.SkLookup, asm.FnSkAssign, "5.9"},
		{ebpf.CGroupSockAddr, asm.FnGetCurrentAncestorCgroupId, "5.7"}, {ebpf.SkMsg, asm.FnSkStorageGet, "5.8"},
		{ebpf.CGroupSock, asm.FnSkStorageGet, "5.9"},
	}
)

// checkKernel probes for each program type, map type and helper. What is there is one finding for each of the three.
func checkKernel() []Finding {
	types, maps, calls := probes{name: "BPF program types"}, probes{name: "BPF map types"}, probes{name: "BPF helpers"}
	for _, p := range programTypes {
		types.add(p.t.String(), "BPF programs of type "+p.t.String(), p.since, features.HaveProgramType(p.t))
	}
	for _, m := range mapTypes {
		maps.add(m.t.String(), "BPF maps of type "+m.t.String(), m.since, features.HaveMapType(m.t))
	}
	for _, h := range helpers {
		calls.add(fmt.Sprintf("%s in %s", strings.TrimPrefix(h.f.String(), "Fn"), h.t),
			fmt.Sprintf("helper %s in programs of type %s", h.f, h.t), h.since, features.HaveProgramHelper(h.t, h.f))
	}
	return slices.Concat(types.findings(), maps.findings(), calls.findings())
}

// probes gathers answers of the kernel to questions of one sort.
type probes struct {
	name    string
	there   []string
	missing []Finding
}

func (p *probes) add(short, long, since string, err error) {
	switch {
	case err == nil:
		p.there = append(p.there, short)
	case errors.Is(err, ebpf.ErrNotSupported):
		p.missing = append(p.missing, Finding{p.name, "the kernel has no " + long, "needs Linux " + since + " with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL"})
	default:
		p.missing = append(p.missing, Finding{p.name, "cannot tell whether the kernel has " + long, err.Error()})
	}
}

func (p *probes) findings() []Finding {
	if len(p.missing) > 0 {
		return p.missing
	}
	return []Finding{{Name: p.name, What: strings.Join(p.there, ", ")}}
}

// checkDestroy makes a connection on loopback, destroys it and looks whether it has ended.
func checkDestroy() Finding {
	f := Finding{Name: "SOCK_DESTROY", What: "connections can be closed when a policy changes, and UDP sockets when their backend goes"}
	if err := tryDestroy(); err != nil {
		f.What = "connections that a new policy forbids cannot be closed: " + err.Error()
		f.How = "needs a kernel with CONFIG_INET_DIAG and CONFIG_INET_DIAG_DESTROY (modules inet_diag and tcp_diag)"
	} else if err := tryDestroyUDP(); err != nil {
		f.What = "connected UDP sockets keep a backend that is gone, because they cannot be destroyed: " + err.Error()
		f.How = "needs a kernel with CONFIG_INET_UDP_DIAG (module udp_diag)"
	}
	return f
}

func tryDestroy() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		if l, err = net.Listen("tcp", "[::1]:0"); err != nil {
			return fmt.Errorf("make a connection to destroy: %w", err)
		}
	}
	defer func() { _ = l.Close() }()
	client, err := net.DialTimeout("tcp", l.Addr().String(), destroyPatience)
	if err != nil {
		return fmt.Errorf("make a connection to destroy: %w", err)
	}
	defer func() { _ = client.Close() }()
	server, err := l.Accept()
	if err != nil {
		return fmt.Errorf("make a connection to destroy: %w", err)
	}
	defer func() { _ = server.Close() }()
	all, err := sockdiag.TCP()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(s sockdiag.Socket) bool {
		return s.Local.String() == client.LocalAddr().String() && s.Remote.String() == client.RemoteAddr().String()
	})
	if at < 0 {
		return errors.New("the kernel does not list a connection that is there")
	}
	if n, err := sockdiag.Destroy(all[at : at+1]); err != nil || n != 1 {
		return errors.Join(err, errors.New("the kernel does not destroy a connection that is there"))
	}
	_ = server.SetReadDeadline(time.Now().Add(destroyPatience))
	switch _, err := server.Read(make([]byte, 1)); {
	case err == nil:
		return errors.New("a connection that was destroyed lives on")
	case !errors.Is(err, unix.ECONNRESET):
		return fmt.Errorf("the other end of a destroyed connection sees no reset: %w", err)
	}
	return nil
}

// tryDestroyUDP connects a UDP socket on loopback, destroys it and looks whether it gets the error.
func tryDestroyUDP() error {
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		if c, err = net.Dial("udp", "[::1]:9"); err != nil {
			return fmt.Errorf("make a UDP socket to destroy: %w", err)
		}
	}
	defer func() { _ = c.Close() }()
	local, remote := c.LocalAddr().(*net.UDPAddr).AddrPort(), c.RemoteAddr().(*net.UDPAddr).AddrPort()
	family := uint8(unix.AF_INET)
	if local.Addr().Is6() {
		family = unix.AF_INET6
	}
	if n, err := sockdiag.Destroy([]sockdiag.Socket{udpSocketOf(family, local, remote, sockdiag.AnyCookie, 0)}); err != nil || n != 1 {
		return errors.Join(err, errors.New("the kernel does not destroy a UDP socket that is there"))
	}
	_ = c.SetReadDeadline(time.Now().Add(destroyPatience))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
		return fmt.Errorf("a UDP socket that was destroyed gets no ECONNABORTED: %w", err)
	}
	return nil
}

// destroyPatience bounds each step of tryDestroy.
const destroyPatience = 5 * time.Second

// checkPrograms lets the verifier judge every program, on maps that are gone afterwards.
func checkPrograms() Finding {
	f := Finding{Name: "BPF programs"}
	spec, err := loadSpec(0)
	if err != nil {
		f.What, f.How = err.Error(), "please report it"
		return f
	}
	for _, m := range spec.Maps {
		if m.Type == ebpf.Hash || m.Type == ebpf.LRUHash || m.Type == ebpf.SockHash {
			m.MaxEntries = 1024
		}
	}
	f.What = fmt.Sprintf("the kernel takes all %d", len(spec.Programs))
	if _, err := btf.LoadKernelSpec(); err != nil {
		delete(spec.Programs, weftProgFindListeners)
		delete(spec.Programs, weftProgFindDatagrams)
		f.What = fmt.Sprintf("the kernel takes all %d that need no BTF; without BTF an upgrade may refuse authenticated connections until Envoy is restarted, "+
			"and connected UDP sockets keep a backend that is gone",
			len(spec.Programs))
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		f.What, f.How = "the kernel does not take the BPF programs: "+verifier(err).Error(), "needs Linux 5.15; please report it if yours is later"
		return f
	}
	coll.Close()
	return f
}
