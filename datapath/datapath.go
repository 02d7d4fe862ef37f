package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Datapath is the node's part in the kernel. One agent at a time may Run on a PinDir.
type Datapath struct {
	cfg  Config
	spec *ebpf.CollectionSpec
	maps map[string]*ebpf.Map
	// fresh has the names of maps that Open made.
	fresh map[string]bool
	lock  *os.File // of the pins

	mu      sync.Mutex
	pending *ebpf.Collection // programs that wait for their maps to be filled
	rec     *reconciler      // while Run works

	names atomic.Pointer[map[uint64]string] // namespace cookie -> workload
	lost  atomic.Uint64
}

// Open loads the programs and puts them on their hooks. What an earlier agent left pinned is taken over: its maps keep
// their entries, and its programs are replaced atomically, so that no connection meets a gap. If this version needs
// other maps, the programs are replaced by Run, as soon as the new maps are filled.
func Open(cfg Config) (*Datapath, error) {
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
	lock, err := lockPins(cfg.PinDir)
	if err != nil {
		return nil, err
	}
	d := &Datapath{cfg: cfg, lock: lock}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Datapath) open() (err error) {
	if d.spec, err = loadSpec(); err != nil {
		return err
	}
	if d.maps, d.fresh, err = openMaps(d.cfg.PinDir, d.spec); err != nil {
		return err
	}
	if d.pending, err = loadHooks(d.spec, d.maps); err != nil {
		return err
	}
	before, err := filepath.Glob(filepath.Join(d.cfg.PinDir, linkDir, "*"))
	if err != nil {
		return err
	}
	if len(d.fresh) > 0 && len(before) > 0 {
		d.cfg.Log.Info("maps have a new layout: programs are replaced when these are filled")
		return nil
	}
	return d.replace()
}

// replace puts the loaded programs on their hooks.
func (d *Datapath) replace() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pending == nil {
		return nil
	}
	if err := attachAll(d.cfg, d.pending); err != nil {
		return err
	}
	d.pending.Close()
	d.pending = nil
	return removeStaleMaps(d.cfg.PinDir, d.spec)
}

// Run keeps the maps and the pods' namespaces as st says, until ctx ends. What fails is tried again and does not hold
// up the rest: see Status. Nothing is removed from the kernel because st lacks it before st.Synced.
func (d *Datapath) Run(ctx context.Context, st *state.State) error {
	ns := &kernelNamespaces{
		log: d.cfg.Log, dir: filepath.Join(d.cfg.PinDir, podDir),
		load: func(cookie uint64) (*ebpf.Program, error) {
			return loadOne(d.spec, d.maps, weftProgInbound, map[string]uint64{weftVarOwnNetns: cookie})
		},
		hold: d.waits,
	}
	if d.fresh[weftMapListeners] {
		ns.findListeners = func(netns int, cookie uint64) error {
			return findListeners(d.spec, d.maps, d.cfg.proxyPath(), netns, cookie)
		}
	}
	rec, err := newReconciler(d.cfg.Log, st, kernelTables(d.maps), ns)
	if err != nil {
		return err
	}
	defer rec.close()
	rec.names, rec.workloads.listens, rec.services.routes = &d.names, d.cfg.Listens, d.cfg.Routes
	ns.node = rec.isNode
	d.mu.Lock()
	d.rec = rec
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.rec = nil
		d.mu.Unlock()
	}()
	return rec.run(ctx, d.replace)
}

// waits is true while programs of an earlier version work on.
func (d *Datapath) waits() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pending != nil
}

func (d *Datapath) running() *reconciler {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rec
}

// Holds tells whether a local workload is in the kernel as it is given: its entries are written and its namespace's hooks
// are on.
func (d *Datapath) Holds(w *model.Workload) bool {
	rec := d.running()
	return rec != nil && rec.holds(w)
}

// CloseConnections ends live connections of a local workload (namespace/name) and says how many. Run closes those in
// the clear itself when a workload becomes strict or gets its first policy; call this when a policy allows less than
// before and Envoy has it. Of the selected ones it ends those that forbidden picks by their ends, or all if it is nil.
func (d *Datapath) CloseConnections(workload string, which Connections, forbidden func(local, remote netip.AddrPort) bool) (int, error) {
	rec := d.running()
	if rec == nil {
		return 0, errors.New("the datapath does not run")
	}
	return rec.closeConnections(workload, which, forbidden)
}

// Status tells what is in the kernel.
type Status struct {
	Frontends  int         `json:"frontends"` // addresses and ports of Services
	Backends   int         `json:"backends"`  // slots that frontends pick from
	Peers      int         `json:"peers"`     // addresses of workloads with an identity
	Pods       []PodStatus `json:"pods"`
	Errors     []string    `json:"errors,omitempty"` // each names its object
	LostEvents uint64      `json:"lostEvents"`
	// Pending is true while programs of an earlier version work on, because maps of this one are not filled yet.
	Pending bool `json:"pending,omitempty"`
	// Attached names the links that hold programs on their hooks.
	Attached []string    `json:"attached"`
	Maps     []MapStatus `json:"maps"`
}

// MapStatus is how full a map is.
type MapStatus struct {
	Name    string `json:"name"`
	Entries int    `json:"entries"`
	Max     int    `json:"max"`
}

// PodStatus is a local workload as the kernel knows it.
type PodStatus struct {
	Workload string         `json:"workload"`
	NetNS    string         `json:"netns"`
	Cookie   uint64         `json:"cookie"`
	MTLS     model.MTLSMode `json:"mtls"`
	Policed  bool           `json:"policed"`
}

// Status gives the present state; it is empty while Run does not work.
func (d *Datapath) Status() Status {
	rec := d.running()
	if rec == nil {
		return Status{LostEvents: d.lost.Load()}
	}
	s := rec.status()
	s.LostEvents = d.lost.Load()
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Pending = d.pending != nil
	for i, m := range s.Maps {
		s.Maps[i].Max = int(d.maps[m.Name].MaxEntries())
	}
	pinned, _ := filepath.Glob(filepath.Join(d.cfg.PinDir, linkDir, "*")) // the pattern is well formed
	for _, p := range pinned {
		s.Attached = append(s.Attached, filepath.Base(p))
	}
	return s
}

// Close lets go of the kernel's objects. What is pinned stays, and traffic goes on. Run and Events must have ended.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pending != nil {
		d.pending.Close()
		d.pending = nil
	}
	closeMaps(d.maps)
	d.maps = nil
	if d.lock == nil {
		return nil
	}
	lock := d.lock
	d.lock = nil
	return lock.Close()
}
