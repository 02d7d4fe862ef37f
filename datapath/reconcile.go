package datapath

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// checkEvery is how often hooks are looked at, which change without a word.
	checkEvery = 2 * time.Second
	// routeSettle after Envoy has accepted a route its workers have taken it in.
	routeSettle = 20 * time.Millisecond
)

// reconcilerConfig is what a reconciler works with.
type reconcilerConfig struct {
	log        *slog.Logger
	st         *state.State
	tables     tables
	namespaces namespaces
	// names is told the workloads of network namespaces, by cookie.
	names *atomic.Pointer[map[uint64]string]
	// acceptTimeout is Config.AcceptTimeout.
	acceptTimeout time.Duration
	// leaveTimeout is Config.LeaveTimeout.
	leaveTimeout time.Duration
	// tunnel is Config.Tunnel.
	tunnel bool
	// programs are attached when the tables hold everything and nothing else. Until then, programs of an earlier version
	// stay in the pods' namespaces if retain is true. Nil for none.
	programs programs
	retain   bool
	// cgroup returns the number of a cgroup by its path below the root, 0 if it is gone; nil where there are none.
	cgroup func(path string) uint64
	// probing reports whether a connection is one of the host's own processes that probes a workload; nil for none.
	probing func(local, remote netip.AddrPort) bool
	// usage says how full the maps are that programs write, by name; nil for none. Counting takes milliseconds.
	usage func() ([]model.MapUsage, error)
}

// reconciler makes the tables and the pods' namespaces equal to the model, and writes what it did to Programmed. It
// belongs to one goroutine, that of run.
type reconciler struct {
	reconcilerConfig
	services   *services
	workloads  *workloads
	callers    callers
	nodes      *nodes
	otherNodes *mirror[weftAddress, uint32]
	podCgroups *podCgroups
	schedule   schedule
	hooks      map[model.Subject]*hookState
	requests   chan closeRequest
	measured   time.Time // when usage counted last
	synced     bool      // the tables hold everything
}

// object is something that is reconciled as a whole.
type object struct {
	kind model.SubjectKind
	name string
}

// What concerns the node as a whole.
var (
	leftovers   = object{model.SubjectNode, "leftovers"}
	hostOwn     = object{model.SubjectNode, "addresses"}
	otherNodes  = object{model.SubjectNode, "addresses of other nodes"}
	cgroups     = object{model.SubjectNode, "cgroups"}
	newPrograms = object{model.SubjectNode, "programs"}
	strays      = object{model.SubjectNode, "datagrams"}
	callerFlags = object{model.SubjectNode, "callers"}
)

func (o object) String() string { return string(o.kind) + " " + o.name }

func newReconciler(cfg reconcilerConfig) (*reconciler, error) {
	svc, err := newServices(cfg.tables)
	if err != nil {
		return nil, err
	}
	nodes, err := newNodes(cfg.tables)
	if err != nil {
		return nil, err
	}
	others, err := newMirror("other_nodes", cfg.tables.otherNodes)
	if err != nil {
		return nil, err
	}
	wl, err := newWorkloads(cfg.log, cfg.tables, cfg.namespaces)
	if err != nil {
		return nil, err
	}
	podCgroups, err := newPodCgroups(cfg.tables, cfg.cgroup)
	if err != nil {
		return nil, err
	}
	wl.retainPrograms, wl.tunnel, wl.serves, wl.probing = cfg.retain, cfg.tunnel, svc.serves, cfg.probing
	wl.accepts = func(node string) bool { return cfg.st.NodeAccepts(cfg.st.Snapshot(), node, model.TransportTunnel) }
	return &reconciler{
		reconcilerConfig: cfg, services: svc, workloads: wl, nodes: nodes, otherNodes: others, podCgroups: podCgroups, schedule: newSchedule(),
		hooks: map[model.Subject]*hookState{}, requests: make(chan closeRequest),
	}, nil
}

// run works until ctx ends.
func (r *reconciler) run(ctx context.Context) error {
	feed := r.st.Feed(r.st.Services, r.st.Endpoints, r.st.Divisions, r.st.Workloads, r.st.Placements, r.st.PodCgroups, r.st.HostAddresses, r.st.Nodes, r.st.NodeAddresses, r.st.Accepted, r.st.Carried)
	defer feed.Close()
	r.started(false)
	_, snap := feed.Take()
	r.reconcile(snap, r.everything(snap))
	r.verify()
	synced := r.st.Synced()
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for {
		var due <-chan time.Time
		if at, ok := r.schedule.next(); ok {
			due = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-feed.Ready():
			keys, snap := feed.Take()
			r.reconcile(snap, r.dirty(keys, snap))
		case <-synced:
			synced, r.synced = nil, true
			_, snap := feed.Take()
			todo := r.everything(snap)
			todo[leftovers], todo[newPrograms], todo[strays] = struct{}{}, struct{}{}, struct{}{}
			r.reconcile(snap, todo)
			r.verify()
			r.started(true)
		case <-check.C:
			r.verify()
			r.measure()
		case <-due:
			r.reconcile(r.st.Snapshot(), r.schedule.due(time.Now()))
		case req := <-r.requests:
			r.close(req)
		}
	}
}

// reconcile brings objects in line. Workloads that went come first, for others may get their namespace and addresses in
// the same change, then the other workloads: a backend must not be picked before it is known to have an identity. What
// fails is tried again later, and holds up nothing else.
func (r *reconciler) reconcile(snap *state.Snapshot, objects map[object]struct{}) {
	if len(objects) == 0 {
		return
	}
	r.numberCallers(snap, objects)
	byOrder := map[int][]object{}
	for o := range objects {
		if o == strays {
			r.services.left = true
			continue
		}
		step := r.step(snap, o)
		byOrder[step] = append(byOrder[step], o)
	}
	results := map[object]result{}
	for _, step := range slices.Sorted(maps.Keys(byOrder)) {
		// By name, so that the same object loses what two of them want.
		slices.SortFunc(byOrder[step], func(a, b object) int { return strings.Compare(a.name, b.name) })
		for _, o := range byOrder[step] {
			results[o] = r.apply(snap, o)
			r.record(o, results[o])
		}
	}
	if r.services.left && r.synced {
		r.endStrays(results)
	}
	if r.names != nil {
		names := maps.Clone(r.workloads.owner)
		r.names.Store(&names)
	}
	r.publish(snap, results)
}

// step is when an object's turn comes.
func (r *reconciler) step(snap *state.Snapshot, o object) int {
	switch {
	case o == hostOwn, o == otherNodes, o == cgroups:
		return 0
	case o.kind == model.SubjectWorkload:
		if _, present := r.st.Workloads.Get(snap, o.name); !present {
			return 1
		}
		return 2
	case o.kind == model.SubjectService:
		return 3
	case o == callerFlags: // when their entries are there
		return 4
	case o == leftovers:
		return 5
	}
	return 6
}

// result is what came of reconciling an object.
type result struct {
	revision uint64 // of the model's row; 0 if it is gone
	waits    bool   // for Envoy: the kernel does not hold the revision yet
	err      error
}

func (r *reconciler) apply(snap *state.Snapshot, o object) result {
	switch o {
	case leftovers:
		return result{err: errors.Join(r.services.prune(), r.workloads.prune())}
	case hostOwn:
		return result{err: r.nodes.set(hostAddresses(r.st, snap))}
	case otherNodes:
		return result{err: r.setOtherNodes(snap)}
	case cgroups:
		return result{err: r.podCgroups.set(r.st, snap, r.synced)}
	case newPrograms:
		return result{err: r.replacePrograms(snap)}
	case callerFlags:
		return result{err: r.callers.set(r.workloads)}
	}
	if o.kind == model.SubjectWorkload {
		return r.applyWorkload(snap, o)
	}
	return r.applyService(snap, o)
}

// applyWorkload keeps a workload that gets its first identity as it is until the proxies listen there: its peers would come
// to them as soon as the kernel knows of the identity. One that is gone while its network namespace is still there stays
// closed for a while: a pod that is renamed in a folder has its namespace under the new name in a moment.
func (r *reconciler) applyWorkload(snap *state.Snapshot, o object) result {
	w, revision, _ := r.st.Workloads.Revision(snap, o.name)
	if w != nil && r.workloads.firstIdentity(o.name, w) && !r.acceptedByProxies(snap, o, revision) {
		return result{waits: true}
	}
	if (w == nil || !joinable(w)) && r.leaveTimeout > 0 && r.workloads.closedNamespace(o.name) && !r.schedule.over(o, false, r.leaveTimeout, 0, time.Now()) {
		return result{waits: true, err: r.workloads.retain(o.name, w)}
	}
	delete(r.schedule.waiting, o)
	return result{revision: revision, err: r.workloads.apply(o.name, w)}
}

// applyService balances a port that became L7 in the kernel until Envoy has its routes: it would answer 404. What is new
// does not wait, for nobody uses it yet, and who does must not miss its routes as long as the connection lives.
func (r *reconciler) applyService(snap *state.Snapshot, o object) result {
	s, revision, ok := r.st.Services.Revision(snap, o.name)
	if !ok {
		delete(r.schedule.waiting, o)
		return result{err: errors.Join(r.services.apply(o.name, nil), r.workloads.closeService(o.name, nil))}
	}
	want := serviceEntries(s, func(key string) (*model.Endpoints, bool) { return r.st.Endpoints.Get(snap, key) },
		func(key string) (*model.Division, bool) { return r.st.Divisions.Get(snap, key) },
		func(key string) map[uint8]*model.Division { return r.callersOf(snap, key) })
	waits := false
	if first := r.services.firstRoutes(want); len(first) > 0 && !r.acceptTime(o, r.acceptedByEnvoy(snap, o, revision), routeSettle) {
		waits = true
		for _, i := range first {
			want[i].L7 = false
		}
	} else {
		delete(r.schedule.waiting, o)
	}
	return result{revision: revision, waits: waits, err: r.programService(snap, s, want)}
}

// programService writes a Service's entries. Connections to what is not balanced would go where they go without the mesh, and
// nobody would be authenticated there: its addresses are closed for those that must be.
func (r *reconciler) programService(snap *state.Snapshot, s *model.Service, want []portEntries) error {
	closed := s.Refused
	err := r.services.apply(s.Key(), want)
	if err == nil {
		err = r.unnumbered(s)
	} else {
		closed = slices.Concat(closed, s.Addresses)
	}
	if len(closed) > 0 && !r.authenticates(snap, s) {
		closed = nil
	}
	return errors.Join(err, r.workloads.closeService(s.Key(), closed))
}

// authenticates reports whether a backend of a Service has an identity.
func (r *reconciler) authenticates(snap *state.Snapshot, s *model.Service) bool {
	identified := func(b model.Endpoint) bool { return b.Identity != "" }
	return slices.ContainsFunc(s.Ports, func(p model.ServicePort) bool {
		key := model.PortKey(s.Namespace, s.Name, p.Port, p.Protocol)
		for _, caller := range append(r.callers.divided[key], "") {
			d, ok := r.st.Divisions.Get(snap, model.DivisionKey(key, caller))
			if ok && slices.ContainsFunc(d.Shares, func(s model.Share) bool { return slices.ContainsFunc(s.Endpoints, identified) }) {
				return true
			}
		}
		e, ok := r.st.Endpoints.Get(snap, key)
		return ok && slices.ContainsFunc(e.Backends, identified)
	})
}

// acceptedByEnvoy reports whether Envoy has accepted an object at a revision.
func (r *reconciler) acceptedByEnvoy(snap *state.Snapshot, o object, revision uint64) bool {
	return r.st.AcceptedAt(snap, model.Subject{Kind: o.kind, Name: o.name}, revision)
}

// acceptedByProxies reports whether Envoy, and weft tunnel if it is used, serve a workload at a revision, or had the time to.
func (r *reconciler) acceptedByProxies(snap *state.Snapshot, o object, revision uint64) bool {
	accepted := r.acceptedByEnvoy(snap, o, revision) &&
		(!r.st.TunnelConnected(snap) || r.st.CarriedAt(snap, model.Subject{Kind: o.kind, Name: o.name}, revision))
	return r.acceptTime(o, accepted, 0)
}

// acceptTime reports whether an object is accepted and has settled, or had the time to.
func (r *reconciler) acceptTime(o object, accepted bool, settle time.Duration) bool {
	return r.acceptTimeout == 0 || r.schedule.over(o, accepted, r.acceptTimeout, settle, time.Now())
}

// replacePrograms puts this version's programs in the place of an earlier one's.
func (r *reconciler) replacePrograms(snap *state.Snapshot) error {
	if r.programs == nil {
		return nil
	}
	if err := r.programs.attach(); err != nil {
		return err
	}
	if !r.workloads.retainPrograms {
		return nil
	}
	r.workloads.retainPrograms = false
	results := map[object]result{}
	for key := range r.workloads.local {
		o := object{model.SubjectWorkload, key}
		results[o] = r.apply(snap, o)
		r.record(o, results[o])
	}
	r.publish(snap, results)
	return nil
}

// release lets go of the namespaces; what was done in them stays.
func (r *reconciler) release() {
	for _, l := range r.workloads.local {
		_ = l.ns.Close() // an open directory entry: nothing to lose
	}
}
