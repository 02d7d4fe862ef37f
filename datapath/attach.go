package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// hook is a program on a cgroup.
type hook struct {
	program string
	attach  ebpf.AttachType
	proxy   bool // on Envoy's cgroup, else on the root
	// watches UDP alone: Config.NoUDPFlows leaves it out.
	udp bool
}

// Envoy's come first: its sockets must be known before anything is redirected.
var hooks = []hook{
	{weftProgProxyConnect4, ebpf.AttachCGroupInet4Connect, true, false},
	{weftProgProxyConnect6, ebpf.AttachCGroupInet6Connect, true, false},
	{weftProgProxySockops, ebpf.AttachCGroupSockOps, true, false},
	{weftProgAdmit, ebpf.AttachCGroupInetIngress, true, false},
	{weftProgProxyGetsockopt, ebpf.AttachCGroupGetsockopt, true, false},
	{weftProgAppSockops, ebpf.AttachCGroupSockOps, false, false},
	{weftProgGetpeername4, ebpf.AttachCgroupInet4GetPeername, false, false},
	{weftProgGetpeername6, ebpf.AttachCgroupInet6GetPeername, false, false},
	{weftProgGetsockname4, ebpf.AttachCgroupInet4GetSockname, false, false},
	{weftProgGetsockname6, ebpf.AttachCgroupInet6GetSockname, false, false},
	{weftProgRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg, false, false},
	{weftProgRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg, false, false},
	{weftProgSendmsg4, ebpf.AttachCGroupUDP4Sendmsg, false, false},
	{weftProgSendmsg6, ebpf.AttachCGroupUDP6Sendmsg, false, false},
	{weftProgConnect4, ebpf.AttachCGroupInet4Connect, false, false},
	{weftProgConnect6, ebpf.AttachCGroupInet6Connect, false, false},
	{weftProgReleased, ebpf.AttachCgroupInetSockRelease, false, false},
	{weftProgHoldFin, ebpf.AttachCGroupInetEgress, false, false},
	{weftProgUdpEgress, ebpf.AttachCGroupInetEgress, false, true},
	{weftProgUdpIngress, ebpf.AttachCGroupInetIngress, false, true},
}

// hooksOf returns the hooks that a node has.
func hooksOf(cfg Config) []hook {
	if !cfg.NoUDPFlows {
		return hooks
	}
	return slices.DeleteFunc(slices.Clone(hooks), func(h hook) bool { return h.udp })
}

// loadSpec reads the embedded object and fits it to this kernel, and to Config.AdmissionRate.
func loadSpec(rate uint32) (*ebpf.CollectionSpec, error) {
	spec, err := loadWeft()
	if err != nil {
		return nil, fmt.Errorf("embedded BPF object: %w", err)
	}
	if err := features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval); errors.Is(err, ebpf.ErrNotSupported) {
		if err := spec.Variables[weftVarHaveSetRetval].Set(false); err != nil {
			return nil, fmt.Errorf("embedded BPF object: %w", err)
		}
	}
	host, err := ownNetnsCookie()
	if err != nil {
		return nil, err
	}
	if err := spec.Variables[weftVarHostNetns].Set(host); err != nil {
		return nil, fmt.Errorf("embedded BPF object: %w", err)
	}
	if rate > 0 {
		cost := uint64(time.Second) / uint64(rate)
		if err := errors.Join(spec.Variables[weftVarAdmissionCost].Set(cost), spec.Variables[weftVarAdmissionBurst].Set(admissionBurst*cost*uint64(rate))); err != nil {
			return nil, fmt.Errorf("embedded BPF object: %w", err)
		}
	}
	return spec, nil
}

// admissionBurst is how many connections a source may open at once, as a multiple of its rate in a second.
const admissionBurst = 2

// loadHooks loads the cgroup programs. Those that watch UDP read structures of the kernel, which not every kernel lets them: the
// rest works without them, and cfg is told.
func loadHooks(cfg *Config, spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map) (*ebpf.Collection, error) {
	programs, err := loadHooksOf(*cfg, spec, maps)
	if err == nil || cfg.NoUDPFlows {
		return programs, err
	}
	without := *cfg
	without.NoUDPFlows = true
	if programs, werr := loadHooksOf(without, spec, maps); werr == nil {
		cfg.Log.Warn("datagrams and messages of DNS are no flows: the programs that watch them cannot be loaded", "error", err)
		*cfg = without
		return programs, nil
	}
	return nil, err
}

func loadHooksOf(cfg Config, spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map) (*ebpf.Collection, error) {
	spec = spec.Copy()
	for _, name := range notHooks {
		delete(spec.Programs, name)
	}
	for _, h := range hooks {
		if h.udp && cfg.NoUDPFlows {
			delete(spec.Programs, h.program)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: maps})
	if err != nil {
		return nil, fmt.Errorf("load the BPF programs: %w", verifier(err))
	}
	return coll, nil
}

// notHooks are the programs that are loaded one by one, when they are needed.
var notHooks = []string{weftProgInbound, weftProgFindListeners, weftProgFindDatagrams}

// loadOne loads one program with constants set. A program that reads structures of the kernel needs types, or the kernel's
// BTF is decoded for it anew.
func loadOne(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map, name string, constants map[string]uint64, types *btf.Cache) (*ebpf.Program, error) {
	one := *spec // copied without the other programs
	one.Programs = map[string]*ebpf.ProgramSpec{name: spec.Programs[name]}
	spec = one.Copy()
	for c, value := range constants {
		if err := spec.Variables[c].Set(value); err != nil {
			return nil, fmt.Errorf("embedded BPF object: %w", err)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: maps, Cache: types})
	if err != nil {
		return nil, fmt.Errorf("load the BPF program %s: %w", name, verifier(err))
	}
	defer coll.Close()
	return coll.DetachProgram(name), nil
}

// verifier keeps the end of a verifier's log, which tells what was wrong.
func verifier(err error) error {
	var v *ebpf.VerifierError
	if errors.As(err, &v) && len(v.Log) > 0 {
		return fmt.Errorf("%w: %s", err, v.Log[len(v.Log)-1])
	}
	return err
}

// cgroup is the directory of the cgroup that the hook is on.
func (h hook) cgroup(cfg Config) string {
	if h.proxy {
		return cfg.proxyPath()
	}
	return cfg.CgroupRoot
}

func (h hook) pin(cfg Config) string { return filepath.Join(cfg.PinDir, linkDir, h.program) }

// attachHook takes an earlier agent's link over, or makes a new one.
func attachHook(cfg Config, h hook, prog *ebpf.Program) (*heldLink, error) {
	pin := h.pin(cfg)
	l, err := link.LoadPinnedLink(pin, nil)
	switch {
	case err == nil && hangsOn(l, h.cgroup(cfg)):
		if err := l.Update(prog); err != nil {
			return nil, errors.Join(fmt.Errorf("replace the program of %s: %w", pin, err), l.Close())
		}
	case err == nil: // on another cgroup, or on one that was removed and made again
		if err := errors.Join(l.Unpin(), l.Close()); err != nil {
			return nil, fmt.Errorf("remove the link %s: %w", pin, err)
		}
		l = nil
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("open the link %s: %w", pin, err)
	}
	if l == nil {
		if l, err = newCgroupLink(cfg, h, prog); err != nil {
			return nil, err
		}
	}
	held, err := holdLink(l, prog, pin)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return held, nil
}

// newCgroupLink attaches a program and pins the link.
func newCgroupLink(cfg Config, h hook, prog *ebpf.Program) (link.Link, error) {
	path, pin := h.cgroup(cfg), h.pin(cfg)
	l, err := link.AttachCgroup(link.CgroupOptions{Path: path, Attach: h.attach, Program: prog})
	if err != nil {
		return nil, fmt.Errorf("attach to cgroup %s: %w", path, err)
	}
	if err := l.Pin(pin); err != nil {
		return nil, errors.Join(fmt.Errorf("pin the link %s: %w", pin, err), l.Close())
	}
	return l, nil
}

// hangsOn compares the link's cgroup with a path. A cgroup's number is the inode of its directory.
func hangsOn(l link.Link, path string) bool {
	info, err := l.Info()
	if err != nil || info.Cgroup() == nil {
		return false
	}
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && info.Cgroup().CgroupId == st.Ino
}
