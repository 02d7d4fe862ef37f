package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/atomicfile"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/xds"
)

const (
	// enforceFile in the run directory holds the policies that were enforced last, so that an agent that comes back
	// knows what became narrower while nobody looked. It goes with the connections when the machine restarts.
	enforceFile = "enforced.json"
	// enforceAgain after Envoy has accepted a change connections are looked at once more: its workers take a listener
	// in after it was accepted, and may let in a last connection by the old rules until then. The same pause is between
	// attempts to close connections that failed.
	enforceAgain = time.Second
)

// enforcer ends live connections that a policy does not allow any more. Envoy decides when a connection or a request
// comes, and would keep what it let in before.
type enforcer struct {
	st     *state.State
	closer func(ctx context.Context, workload string, which datapath.Connections, forbidden func(local, remote netip.AddrPort) bool) (int, error)
	file   string
	log    *slog.Logger

	force map[string]*inForce // by workload; one that is missing has no policy and never had
}

// inForce is what connections to a workload may have been let in by.
type inForce struct {
	versions []*model.Policy // the last one is the model's; nil is no policy
	closed   bool            // connections were closed since Envoy accepted the last version
	due      time.Time       // when to look at connections again; zero while the kernel or Envoy is waited for
}

// maxVersions bounds what is remembered while Envoy does not answer; more are taken for no policy at all.
const maxVersions = 8

func (a *Agent) enforce(ctx context.Context) error {
	e := &enforcer{st: a.st, closer: a.path.CloseConnections, file: filepath.Join(a.cfg.RunDir, enforceFile), log: a.cfg.Log}
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
		return f != nil
	}
	if f == nil {
		if w.Policy == nil {
			return false
		}
		f = &inForce{versions: []*model.Policy{nil}}
		e.force[key] = f
	} else if same(f.versions[len(f.versions)-1], w.Policy) {
		return false
	}
	if len(f.versions) == maxVersions {
		f.versions = []*model.Policy{nil}
	}
	f.versions, f.closed, f.due = append(f.versions, w.Policy), false, time.Time{}
	return true
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
	for key, f := range e.force {
		w, revision, ok := e.st.Workloads.Revision(snap, key)
		if len(f.versions) < 2 || !ok || !same(w.Policy, f.versions[len(f.versions)-1]) {
			continue // nothing changed, or compare will hear of a newer version
		}
		if !f.closed && !e.decided(snap, key, revision) {
			f.due = time.Time{} // the row that it waits for wakes it
			continue
		}
		if now.Before(f.due) {
			continue
		}
		count, err := e.closer(ctx, key, datapath.Inbound, e.forbidden(snap, w, f.versions))
		if count > 0 {
			e.log.Info("closed connections that the policy does not allow any more", "workload", key, "connections", count)
		}
		switch {
		case err != nil: // the datapath reports it as a fault of the workload
			f.due = now.Add(enforceAgain)
		case !f.closed:
			f.closed, f.due = true, now.Add(enforceAgain)
		default:
			f.versions, f.closed, f.due, done = []*model.Policy{w.Policy}, false, time.Time{}, true
		}
	}
	return done
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

// covers tells whether now allows a peer all that before did: on one port, or on all of them if port is 0. A nil policy
// allows everything. It may say no where a yes would be right.
func covers(now, before *model.Policy, peer model.Identity, port uint16) bool {
	if now == nil {
		return true
	}
	grants := grantsTo(now, peer, port)
	for _, b := range grantsTo(before, peer, port) {
		if !slices.ContainsFunc(grants, func(g grant) bool { return g.covers(b) }) {
			return false
		}
	}
	return true
}

// grant is a rule's share that concerns one peer: a port (0 is all) and the requests on it (none is all bytes).
type grant struct {
	port uint16
	http []model.HTTPRule
}

func (g grant) covers(o grant) bool {
	return (g.port == 0 || g.port == o.port) && (len(g.http) == 0 || sameRequests(g.http, o.http))
}

func sameRequests(a, b []model.HTTPRule) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

func grantsTo(p *model.Policy, peer model.Identity, port uint16) []grant {
	if p == nil {
		return []grant{{port: port}}
	}
	var out []grant
	for _, r := range p.Rules {
		if !r.CoversPeer(peer) {
			continue
		}
		switch {
		case len(r.Ports) == 0:
			out = append(out, grant{port: port, http: r.HTTP})
		case port == 0:
			for _, n := range r.Ports {
				out = append(out, grant{port: n, http: r.HTTP})
			}
		case slices.Contains(r.Ports, port):
			out = append(out, grant{port: port, http: r.HTTP})
		}
	}
	return out
}

func loadEnforced(file string) (map[string]*inForce, error) {
	out, versions := map[string]*inForce{}, map[string][]*model.Policy{}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &versions)
	}
	if err != nil {
		return out, fmt.Errorf("%s: %w", file, err)
	}
	for key, v := range versions {
		if len(v) > 0 {
			out[key] = &inForce{versions: v}
		}
	}
	return out, nil
}

// saveEnforced replaces the file in one step. Workloads without a policy are left out.
func saveEnforced(file string, force map[string]*inForce) error {
	versions := map[string][]*model.Policy{}
	for key, f := range force {
		if len(f.versions) > 1 || f.versions[0] != nil {
			versions[key] = f.versions
		}
	}
	text, err := json.Marshal(versions)
	if err != nil {
		return err
	}
	return atomicfile.Write(file, text, 0o600)
}
