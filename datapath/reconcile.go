package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	retryFirst = 20 * time.Millisecond
	retryLast  = 5 * time.Second
	// How often the namespaces of local workloads are looked at: one may go, or come back as another, without a word.
	checkEvery = 2 * time.Second
)

// reconciler makes the tables and the pods' namespaces equal to the model. One goroutine writes (run); mu guards what
// others read.
type reconciler struct {
	log   *slog.Logger
	st    *state.State
	space namespaces

	mu        sync.Mutex
	services  *services
	workloads *workloads
	nodes     *mirror[weftAddress, uint32]
	own       map[netip.Addr]bool // what nodes holds
	errs      map[object]error
	names     *atomic.Pointer[map[uint64]string] // told about local workloads, if not nil
}

// object is something that is reconciled as a whole.
type object struct{ kind, key string }

const (
	kindService  = "Service"
	kindWorkload = "workload"
	kindPrune    = "prune"
	kindHost     = "host addresses"
)

func (o object) String() string { return strings.TrimSpace(o.kind + " " + o.key) }

func newReconciler(log *slog.Logger, st *state.State, t tables, ns namespaces) (*reconciler, error) {
	svc, err := newServices(t)
	if err != nil {
		return nil, err
	}
	wl, err := newWorkloads(log, t, ns)
	if err != nil {
		return nil, err
	}
	nodes, err := newMirror("nodes", t.nodes)
	if err != nil {
		return nil, err
	}
	return &reconciler{
		log: log, st: st, space: ns, services: svc, workloads: wl, nodes: nodes, errs: map[object]error{},
	}, nil
}

// run works until ctx ends. ready is called once, when the tables hold everything and nothing else.
func (r *reconciler) run(ctx context.Context, ready func() error) error {
	feed := r.st.Feed()
	defer feed.Close()
	_, snap := feed.Take()
	r.reconcile(snap, r.everything(snap))
	synced := r.st.Synced()
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	delay := retryFirst
	for {
		var retry <-chan time.Time
		if r.failing() {
			retry = time.After(r.pause(delay))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-feed.Ready():
			keys, snap := feed.Take()
			r.reconcile(snap, r.dirty(keys))
		case <-synced:
			synced = nil
			r.finishStart(feed, ready)
		case <-check.C:
			if gone := r.workloads.moved(); len(gone) > 0 {
				r.reconcile(r.st.Snapshot(), gone)
			}
		case <-retry:
			r.reconcile(r.st.Snapshot(), r.failed())
			delay = min(2*delay, retryLast)
		}
		if !r.failing() {
			delay = retryFirst
		}
	}
}

// finishStart runs when the model is complete: what is left over from an earlier agent goes.
func (r *reconciler) finishStart(feed *state.Feed, ready func() error) {
	_, snap := feed.Take()
	todo := r.everything(snap)
	todo[object{kind: kindPrune}] = struct{}{}
	r.reconcile(snap, todo)
	if ready == nil {
		return
	}
	if err := ready(); err != nil {
		r.log.Error("programs of the earlier version stay: the new ones cannot be attached", "error", err)
		return
	}
	r.reconcile(snap, r.everything(snap)) // namespaces get theirs too
}

func (r *reconciler) everything(snap *state.Snapshot) map[object]struct{} {
	out := map[object]struct{}{}
	for s := range r.st.Services.All(snap) {
		out[object{kindService, s.Key()}] = struct{}{}
	}
	for w := range r.st.Workloads.All(snap) {
		out[object{kindWorkload, w.Key()}] = struct{}{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.services.ports { // those that went while nobody looked
		out[object{kindService, key}] = struct{}{}
	}
	for key := range r.workloads.local {
		out[object{kindWorkload, key}] = struct{}{}
	}
	for key := range r.workloads.peers.owned {
		out[object{kindWorkload, key}] = struct{}{}
	}
	out[object{kind: kindHost}] = struct{}{}
	return out
}

// dirty finds the objects that changed keys belong to.
func (r *reconciler) dirty(keys map[state.Key]struct{}) map[object]struct{} {
	out := map[object]struct{}{}
	for k := range keys {
		if k.Index != "" {
			continue
		}
		switch k.Table {
		case r.st.Services.ID():
			out[object{kindService, k.Value}] = struct{}{}
		case r.st.Endpoints.ID():
			if p := strings.SplitN(k.Value, "/", 3); len(p) == 3 {
				out[object{kindService, model.Key(p[0], p[1])}] = struct{}{}
			}
		case r.st.Workloads.ID():
			out[object{kindWorkload, k.Value}] = struct{}{}
		case r.st.HostAddresses.ID():
			out[object{kind: kindHost}] = struct{}{}
		}
	}
	return out
}

// reconcile brings objects in line. Workloads that went come first, for others may get their namespace and addresses in
// the same change, then the other workloads: a backend must not be picked before it is known to have an identity. What
// fails is tried again later, and holds up nothing else.
func (r *reconciler) reconcile(snap *state.Snapshot, objects map[object]struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone := func(o object) bool {
		_, ok := r.st.Workloads.Get(snap, o.key)
		return o.kind == kindWorkload && !ok
	}
	// By name, so that who loses an address to another finds it taken, and is told about.
	ordered := slices.SortedFunc(maps.Keys(objects), func(a, b object) int { return strings.Compare(a.key, b.key) })
	for _, o := range ordered {
		if gone(o) {
			r.record(o, r.apply(snap, o))
		}
	}
	for _, kind := range []string{kindHost, kindWorkload, kindService, kindPrune} {
		for _, o := range ordered {
			if o.kind == kind && !gone(o) {
				r.record(o, r.apply(snap, o))
			}
		}
	}
	if r.names != nil {
		names := maps.Clone(r.workloads.owner)
		r.names.Store(&names)
	}
}

func (r *reconciler) apply(snap *state.Snapshot, o object) error {
	switch o.kind {
	case kindHost:
		return r.setNodes(r.hostAddresses(snap))
	case kindWorkload:
		w, _ := r.st.Workloads.Get(snap, o.key)
		return r.workloads.apply(o.key, w)
	case kindService:
		s, ok := r.st.Services.Get(snap, o.key)
		if !ok {
			return r.services.apply(o.key, nil)
		}
		want := serviceEntries(s, func(key string) (*model.Endpoints, bool) { return r.st.Endpoints.Get(snap, key) })
		held := r.services.holdRoutes(s, want, time.Now())
		if err := r.services.apply(o.key, want); err != nil || !held {
			return err
		}
		return errHeld
	default:
		return errors.Join(r.services.prune(), r.workloads.prune())
	}
}

func (r *reconciler) record(o object, err error) {
	old := r.errs[o]
	if err == nil {
		if old != nil && !errors.Is(old, errHeld) {
			r.log.Info("kernel follows again", "object", o.String())
		}
		delete(r.errs, o)
		return
	}
	if errors.Is(err, errHeld) {
		r.errs[o] = err
		return
	}
	err = fmt.Errorf("%s: %w", o, err)
	if old == nil || old.Error() != err.Error() {
		r.log.Error("kernel does not follow", "error", err)
	}
	r.errs[o] = err
}

func (r *reconciler) failing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.errs) > 0
}

// pause is the time until the next try: what waits for Envoy does not wait for what fails.
func (r *reconciler) pause(delay time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, err := range r.errs {
		if errors.Is(err, errHeld) {
			return retryFirst
		}
	}
	return delay
}

func (r *reconciler) failed() map[object]struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[object]struct{}{}
	for o := range r.errs {
		out[o] = struct{}{}
	}
	return out
}

// holds tells whether nothing is left to do for a local workload.
func (r *reconciler) holds(w *model.Workload) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.workloads.local[w.Key()]
	return l != nil && r.errs[object{kindWorkload, w.Key()}] == nil && reflect.DeepEqual(l.workload, w)
}

func (r *reconciler) closeConnections(workload string, which Connections, forbidden func(local, remote netip.AddrPort) bool) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.workloads.local[workload]
	if l == nil {
		return 0, fmt.Errorf("workload %s is not on this node", workload)
	}
	n, err := l.ns.CloseConnections(which, l.workload, forbidden)
	if err != nil {
		return n, fmt.Errorf("workload %s: %w", workload, err)
	}
	return n, nil
}

func (r *reconciler) status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{Frontends: len(r.services.frontends.have), Backends: len(r.services.slots.have), Peers: len(r.workloads.peers.have)}
	for _, key := range slices.Sorted(maps.Keys(r.workloads.local)) {
		l := r.workloads.local[key]
		s.Pods = append(s.Pods, PodStatus{
			Workload: key, NetNS: l.workload.NetNS, Cookie: l.ns.Cookie(), MTLS: l.workload.MTLS, Policed: l.workload.Policy != nil,
		})
	}
	s.Maps = []MapStatus{
		{Name: weftMapFrontends, Entries: s.Frontends}, {Name: weftMapSlots, Entries: s.Backends},
		{Name: weftMapPeers, Entries: s.Peers}, {Name: weftMapPods, Entries: len(s.Pods)},
	}
	for _, err := range r.errs {
		if !errors.Is(err, errHeld) {
			s.Errors = append(s.Errors, err.Error())
		}
	}
	slices.Sort(s.Errors)
	return s
}

// close lets go of the namespaces; what was done in them stays.
func (r *reconciler) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.workloads.local {
		_ = l.ns.Close() // an open directory entry: nothing to lose
	}
}
