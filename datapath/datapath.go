package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/weft-mesh/weft/internal/state"
)

// Datapath is the node's part in the kernel. One agent at a time may Run on a PinDir.
type Datapath struct {
	cfg  Config
	st   *state.State
	spec *ebpf.CollectionSpec
	maps map[string]*ebpf.Map
	// fresh has the names of maps that Open made.
	fresh map[string]bool
	lock  *os.File // of the pins
	hooks *cgroupHooks
	rec   *reconciler

	names    atomic.Pointer[map[uint64]string] // namespace cookie -> workload
	ringUsed atomic.Int64                      // bytes of the event ring, when Events looked last
	dnsUsed  atomic.Int64                      // likewise of the ring of DNS messages and Datagrams
}

// New checks what the kernel and the process's privileges must give. It leaves alone what is pinned.
func New(cfg Config, st *state.State) (*Datapath, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if lacks := missing(checkCapabilities(effectiveCapabilities())); len(lacks) > 0 {
		return nil, missingError(lacks)
	}
	if err := rlimit.RemoveMemlock(); err != nil { // accounting by memory cgroup came with Linux 5.11
		return nil, fmt.Errorf("lift the limit of locked memory: %w", err)
	}
	if err := cfg.prepare(); err != nil {
		return nil, err
	}
	return &Datapath{cfg: cfg, st: st}, nil
}

// Open loads the programs and attaches them. What an earlier agent left pinned is taken over: its maps keep their
// entries, and its programs are replaced atomically, so that no connection meets a gap. If this version needs other maps,
// Run replaces the programs as soon as the new maps are filled. It fails with ErrInUse while another agent works on the
// same pins.
func (d *Datapath) Open() error {
	var err error
	if d.lock, err = lockPins(d.cfg.PinDir); err != nil {
		return err
	}
	if err := d.open(); err != nil {
		return errors.Join(err, d.Close())
	}
	return nil
}

func (d *Datapath) open() (err error) {
	if d.spec, err = loadSpec(d.cfg.AdmissionRate); err != nil {
		return err
	}
	if d.maps, d.fresh, err = openMaps(d.cfg.PinDir, d.spec); err != nil {
		return err
	}
	programs, err := loadHooks(&d.cfg, d.spec, d.maps)
	if err != nil {
		return err
	}
	d.hooks = &cgroupHooks{cfg: d.cfg, spec: d.spec, maps: d.maps, programs: programs}
	before, err := filepath.Glob(filepath.Join(d.cfg.PinDir, linkDir, "*"))
	if err != nil {
		return err
	}
	retain := len(d.fresh) > 0 && len(before) > 0
	if retain {
		d.cfg.Log.Info("maps have a new layout: programs are replaced when these are filled")
	} else if err := d.hooks.attach(); err != nil {
		return err
	}
	d.rec, err = newReconciler(reconcilerConfig{
		log: d.cfg.Log, st: d.st, tables: kernelTables(d.maps), namespaces: d.namespaces(), names: &d.names,
		acceptTimeout: d.cfg.AcceptTimeout, leaveTimeout: d.cfg.LeaveTimeout, tunnel: d.cfg.Tunnel, programs: d.hooks, retain: retain,
		usage: d.usage, probing: d.probing,
		cgroup: func(path string) uint64 { return cgroupInode(filepath.Join(d.cfg.CgroupRoot, path)) },
	})
	return err
}

func (d *Datapath) namespaces() *kernelNamespaces {
	ns := &kernelNamespaces{
		log: d.cfg.Log, datagrams: &datagramFinder{log: d.cfg.Log, spec: d.spec, maps: d.maps}, dir: filepath.Join(d.cfg.PinDir, podDir),
		load: func(cookie uint64) (*ebpf.Program, error) {
			return loadOne(d.spec, d.maps, weftProgInbound, map[string]uint64{weftVarOwnNetns: cookie}, nil)
		},
		inbound: inboundProgram{own: d.spec.Variables[weftVarOwnNetns].Offset},
	}
	if d.fresh[weftMapListeners] {
		ns.findListeners = func(netns int, cookie uint64) error {
			return findListeners(d.spec, d.maps, d.cfg.proxyPath(), netns, cookie)
		}
	}
	return ns
}

// Run keeps the maps and the pods' namespaces as the tables say, until ctx ends, and reports in state.Programmed. What
// fails is tried again and does not hold up the rest. Nothing is removed from the kernel because the tables lack it
// before State.Synced.
func (d *Datapath) Run(ctx context.Context) error {
	defer d.rec.release()
	return d.rec.run(ctx)
}

// CloseConnections ends live connections of a local workload (namespace/name) and returns how many there were. Run closes
// those in the clear itself when a workload becomes strict or gets its first policy; call this when a policy allows
// less than before and Envoy has it. Of the selected ones it ends those that forbidden picks by their ends, or all if
// it is nil. It waits for Run. A failure is also the workload's in state.Programmed until a later call succeeds.
func (d *Datapath) CloseConnections(ctx context.Context, workload string, which Connections, forbidden func(local, remote netip.AddrPort) bool) (int, error) {
	return d.rec.request(ctx, closeRequest{workload: workload, which: which, forbidden: forbidden})
}

// Close lets go of the kernel's objects. What is pinned stays, and traffic goes on. Run and Events must have ended.
func (d *Datapath) Close() error {
	err := d.hooks.close()
	d.hooks = nil
	closeMaps(d.maps)
	d.maps = nil
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
		d.lock = nil
	}
	return err
}
