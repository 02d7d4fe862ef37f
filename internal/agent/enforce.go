package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/proxy"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/xds"
)

const (
	// enforceFile in the run directory holds the policies that were enforced last, so that an agent that comes back
	// knows what became narrower while nobody looked. It goes with the connections when the machine restarts.
	enforceFile = "enforced.json"
	// enforceAgain is the pause between attempts to close connections that failed. It is also how long the workers of an
	// Envoy that does not say what they have are given for a change that it has accepted.
	enforceAgain = time.Second
	// enforcePoll is the pause between two questions whether Envoy's workers have a change, and enforcePatience how long one
	// may take.
	enforcePoll, enforcePatience = 10 * time.Millisecond, 200 * time.Millisecond
	// namespaceKept is longer than the datapath keeps the network namespace of a workload that is gone, and with it the
	// connections, for the next one.
	namespaceKept = 10 * time.Second
)

// enforcer ends live connections that a policy does not allow any more. Envoy decides when a connection or a request
// comes, and would keep what it let in before.
//
// Envoy accepts a change in its main thread. Its workers take it in later, and may let in a last connection by the old rules until
// then. So connections are looked at when the workers have the change, which Envoy's statistics tell: what they let in from then on is
// not touched. Until they have it, or where Envoy does not tell, connections are looked at once when the change is accepted and for
// the last time enforceAgain later.
type enforcer struct {
	st     *state.State
	closer func(ctx context.Context, workload string, which datapath.Connections, forbidden func(local, remote netip.AddrPort) bool) (int, error)
	// applied returns what Envoy's workers have of what Envoy has accepted.
	applied func(context.Context) (*proxy.Applied, error)
	file    string
	log     *slog.Logger

	force   map[string]*inForce  // by local workload
	started bool                 // a workload that is new from now on has no connections from before
	left    map[string]time.Time // when a workload left a network namespace, by its path; for namespaceKept
}

// inForce is what connections to a workload may have been let in by.
type inForce struct {
	netns    string
	versions []*model.Policy // the last one is the model's; nil is no policy
	since    time.Time       // when the last version was seen to be accepted; zero before
	closed   bool            // connections were closed since then
	due      time.Time       // when to look at connections again; zero while the kernel or Envoy is waited for
}

// written reports whether f is in the file: whether there is a policy, or was.
func (f *inForce) written() bool { return f != nil && (len(f.versions) > 1 || f.versions[0] != nil) }

// changed puts the model's policy after the versions before.
func (f *inForce) changed(p *model.Policy) {
	if len(f.versions) == maxVersions {
		f.versions = []*model.Policy{nil}
	}
	f.versions, f.since, f.closed, f.due = append(f.versions, p), time.Time{}, false, time.Time{}
}

// maxVersions bounds what is remembered while Envoy does not answer; more are taken for no policy at all.
const maxVersions = 8

func (a *Agent) enforce(ctx context.Context) error {
	e := &enforcer{st: a.st, closer: a.path.CloseConnections, applied: a.proxy.Applied, file: filepath.Join(a.cfg.RunDir, enforceFile), log: a.cfg.Log}
	var err error
	if e.force, err = loadEnforced(e.file); err != nil {
		a.cfg.Log.Warn("what was enforced before is not known: authenticated connections to workloads with a policy are closed", "error", err)
	}
	return e.run(ctx)
}

func (e *enforcer) run(ctx context.Context) error {
	feed := e.st.Feed(e.st.Workloads, e.st.Accepted, e.st.Programmed)
	defer feed.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-e.st.Synced():
	}
	_, snap := feed.Take()
	e.start(snap)
	e.save()
	for {
		if e.work(ctx, snap, time.Now()) {
			e.save()
		}
		var due <-chan time.Time
		if at, ok := e.next(); ok {
			due = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-due:
			snap = e.st.Snapshot()
		case <-feed.Ready():
			var keys map[state.Key]struct{}
			keys, snap = feed.Take()
			if e.changed(keys, snap) {
				e.save()
			}
		}
	}
}

// start compares all local workloads with what was enforced by an earlier agent.
func (e *enforcer) start(snap *state.Snapshot) {
	all := map[string]struct{}{}
	for w := range e.st.Workloads.By(snap, state.ByLocal, "true") {
		all[w.Key()] = struct{}{}
	}
	for key := range e.force {
		all[key] = struct{}{}
	}
	for key := range all {
		e.compare(key, snap)
	}
	e.started = true
}

// changed takes in the workloads whose rows changed. It reports whether the policy of one did.
func (e *enforcer) changed(keys map[state.Key]struct{}, snap *state.Snapshot) bool {
	found := false
	for k := range keys {
		if key, ok := e.st.Workloads.Row(k); ok && e.compare(key, snap) {
			found = true
		}
	}
	return found
}

// compare notes a workload whose policy is not the one that is enforced. It reports whether there was something to note.
func (e *enforcer) compare(key string, snap *state.Snapshot) bool {
	f := e.force[key]
	w, ok := e.st.Workloads.Get(snap, key)
	if !ok || !w.Local {
		delete(e.force, key) // the datapath ends its connections
		if f != nil {
			e.leave(f.netns)
		}
		return f.written()
	}
	known := f != nil
	if !known {
		f = &inForce{versions: []*model.Policy{nil}}
		if e.fresh(w) {
			f.versions[0] = w.Policy
		}
		e.force[key] = f
	}
	if f.netns != w.NetNS {
		if known {
			e.leave(f.netns)
		}
		f.netns = w.NetNS
	}
	if same(f.versions[len(f.versions)-1], w.Policy) {
		return !known && w.Policy != nil
	}
	f.changed(w.Policy)
	return true
}

// fresh reports whether all connections of a workload that was not known are let in by its policy. Those in the clear from before it
// joined are ended by the datapath. Its network namespace may have been another workload's, whose connections are still there.
func (e *enforcer) fresh(w *model.Workload) bool {
	_, taken := e.left[w.NetNS]
	for _, f := range e.force {
		taken = taken || f.netns == w.NetNS
	}
	return e.started && !taken
}

// leave remembers the network namespace of a workload that is gone.
func (e *enforcer) leave(netns string) {
	now := time.Now()
	maps.DeleteFunc(e.left, func(_ string, at time.Time) bool { return now.Sub(at) > namespaceKept })
	if e.left == nil {
		e.left = map[string]time.Time{}
	}
	e.left[netns] = now
}

func same(a, b *model.Policy) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// next returns when connections of a workload are to be looked at again.
func (e *enforcer) next() (at time.Time, ok bool) {
	for _, f := range e.force {
		if len(f.versions) > 1 && !f.due.IsZero() && (!ok || f.due.Before(at)) {
			at, ok = f.due, true
		}
	}
	return at, ok
}

// work closes what is forbidden in workloads whose change is in force. It reports whether one was done.
func (e *enforcer) work(ctx context.Context, snap *state.Snapshot, now time.Time) (done bool) {
	taken := sync.OnceValue(func() *proxy.Applied { return e.ask(ctx) })
	for key, f := range e.force {
		w, revision, ok := e.st.Workloads.Revision(snap, key)
		if len(f.versions) < 2 || !ok || !same(w.Policy, f.versions[len(f.versions)-1]) {
			continue // nothing changed, or compare will hear of a newer version
		}
		if f.since.IsZero() {
			if !e.decided(snap, key, revision) {
				f.due = time.Time{} // the row that it waits for wakes it
				continue
			}
			f.since = now
		}
		if now.Before(f.due) {
			continue
		}
		last := now.Sub(f.since) >= enforceAgain || inAll(taken(), xds.PolicyFilterNames(w))
		if f.closed && !last {
			f.due = now.Add(enforcePoll)
			continue
		}
		count, err := e.closer(ctx, key, datapath.Inbound, e.forbidden(snap, w, f.versions))
		if count > 0 {
			e.log.Info("closed connections that the policy does not allow any more", "workload", key, "connections", count)
		}
		switch {
		case err != nil: // the datapath reports it as a fault of the workload
			f.due = now.Add(enforceAgain)
		case !last:
			f.closed, f.due = true, now.Add(enforcePoll)
		default:
			*f, done = inForce{netns: f.netns, versions: []*model.Policy{w.Policy}}, true
		}
	}
	return done
}

// ask returns what all workers of Envoy have; nothing if Envoy does not answer.
func (e *enforcer) ask(ctx context.Context) *proxy.Applied {
	ctx, cancel := context.WithTimeout(ctx, enforcePatience)
	defer cancel()
	applied, err := e.applied(ctx)
	if err != nil {
		e.log.Debug("Envoy does not say whether its workers have a policy", "error", err)
		return &proxy.Applied{}
	}
	return applied
}

// inAll reports whether all workers have the filters of these names, of which there is at least one, and all listeners. A policy may
// change its workload's listeners too. Envoy acknowledges them before the workers have them, and until then they let in connections
// by the old ones. A listener that was replaced while it warmed is behind for as long as Envoy runs: changes are waited for by time then.
func inAll(applied *proxy.Applied, names []string) bool {
	return applied.Behind == 0 && len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool { return !applied.Filters[n] })
}

// decided reports whether new connections to a workload are decided by its row at a revision: Envoy has accepted it, and
// the kernel holds it or says why it cannot.
func (e *enforcer) decided(snap *state.Snapshot, key string, revision uint64) bool {
	subject := model.Subject{Kind: model.SubjectWorkload, Name: key}
	if !e.st.AcceptedAt(snap, subject, revision) {
		return false
	}
	row, ok := e.st.Programmed.Get(snap, subject.Key())
	return ok && (row.Revision >= revision || row.Error != "")
}

// save writes down what is in force for the next agent.
func (e *enforcer) save() {
	if err := saveEnforced(e.file, e.force); err != nil {
		e.log.Warn("what is enforced cannot be written down for the next agent", "error", err)
	}
}

// forbidden picks connections that may carry what was allowed by an earlier version and is not now. Who is at the
// other end of an authenticated connection is known by its address here; where it is not, the connection ends.
func (e *enforcer) forbidden(snap *state.Snapshot, w *model.Workload, before []*model.Policy) func(local, remote netip.AddrPort) bool {
	return func(local, remote netip.AddrPort) bool {
		var peer model.Identity
		var port uint16
		if local.Port() == xds.PortHBONE {
			if peer = e.identityAt(snap, remote.Addr()); peer == "" {
				return true
			}
		} else {
			port = local.Port()
		}
		return slices.ContainsFunc(before, func(b *model.Policy) bool { return !covers(w.Policy, b, peer, port) })
	}
}

func (e *enforcer) identityAt(snap *state.Snapshot, a netip.Addr) model.Identity {
	for w := range e.st.Workloads.By(snap, state.ByAddress, a.String()) {
		if w.Identity != "" {
			return w.Identity
		}
	}
	for g := range e.st.Gateways.All(snap) {
		if slices.Contains(g.Addresses, a) {
			return g.Identity
		}
	}
	return ""
}
