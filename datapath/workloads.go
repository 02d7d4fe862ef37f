package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// namespaces is what is done in the pods' network namespaces. The kernel's is kernelNamespaces; tests have a fake.
type namespaces interface {
	// Open gives a namespace by its path. It fails with os.ErrNotExist if there is none.
	Open(path string) (namespace, error)
	// Left removes what an earlier agent left for a namespace whose workload is gone.
	Left(cookie uint64, path string) error
}

type namespace interface {
	Cookie() uint64
	// Same tells whether the path still leads here.
	Same() bool
	// Attach makes the namespace ready: sk_lookup, rule, route. It may be called again.
	Attach() error
	// Detach undoes Attach. If the pod is dead, its sockets are destroyed; else only Envoy's connections.
	Detach(dead bool) error
	// CloseConnections destroys live connections of the workload, those that forbidden picks if it is not nil.
	CloseConnections(which Connections, w *model.Workload, forbidden func(local, remote netip.AddrPort) bool) (int, error)
	Close() error
}

// workloads writes peers, pods, own, probes and namespaces, and looks after the namespaces of local workloads.
type workloads struct {
	log   *slog.Logger
	space namespaces
	peers *claims[weftAddress, uint32]
	pods  *mirror[uint64, uint32]
	paths *mirror[uint64, weftPath]
	own   *mirror[weftOwnKey, uint32]
	prob  *mirror[weftProbeKey, uint32]
	local map[string]*localWorkload
	owner map[uint64]string // namespace cookie -> workload
	// listens is Config.Listens.
	listens func(*model.Workload) bool
	joining func() // called before a namespace is joined, if not nil
}

// errHeld is no fault: the workload is looked at again soon.
var errHeld = errors.New("waits until Envoy listens")

type localWorkload struct {
	workload *model.Workload
	ns       namespace
	entries  localEntries
	close    bool      // connections are to be closed yet
	held     time.Time // since when a first identity waits for Envoy; zero if none does
}

func newWorkloads(log *slog.Logger, t tables, space namespaces) (*workloads, error) {
	w := &workloads{log: log, space: space, local: map[string]*localWorkload{}, owner: map[uint64]string{}}
	var errs [5]error
	w.peers, errs[0] = newClaims("peers", t.peers, func(a weftAddress) string { return "address " + decodeAddr(a).String() })
	w.pods, errs[1] = newMirror("pods", t.pods)
	w.paths, errs[2] = newMirror("namespaces", t.namespaces)
	w.own, errs[3] = newMirror("own", t.own)
	w.prob, errs[4] = newMirror("probes", t.probes)
	return w, errors.Join(errs[:]...)
}

// apply makes a workload's entries; nil removes it.
func (ws *workloads) apply(key string, w *model.Workload) error {
	if w != nil && ws.hold(ws.local[key], w, time.Now()) {
		return errHeld
	}
	var want map[weftAddress]uint32
	if w != nil {
		want = peerEntries(w)
	}
	err := errors.Join(ws.peers.set(key, want))
	if w == nil || !w.Local || w.NetNS == "" {
		return errors.Join(err, ws.leave(key))
	}
	return errors.Join(err, ws.join(key, w))
}

// hold tells whether a workload that gets its first identity is to wait: its peers would come to Envoy as soon as the
// kernel knows of it.
func (ws *workloads) hold(l *localWorkload, w *model.Workload, now time.Time) bool {
	if ws.listens == nil || l == nil || l.workload.Identity != "" || w.Identity == "" || l.workload.NetNS != w.NetNS {
		return false
	}
	if l.held.IsZero() {
		l.held = now
	}
	return now.Sub(l.held) < HoldIdentity && !ws.listens(w)
}

func (ws *workloads) join(key string, w *model.Workload) error {
	l := ws.local[key]
	if l != nil && (l.workload.NetNS != w.NetNS || !l.ns.Same()) {
		if err := ws.leave(key); err != nil {
			return err
		}
		l = nil
	}
	if l == nil {
		ns, err := ws.space.Open(w.NetNS)
		if err != nil {
			return fmt.Errorf("network namespace %s: %w", w.NetNS, err)
		}
		if other, taken := ws.owner[ns.Cookie()]; taken {
			return errors.Join(fmt.Errorf("network namespace %s %w by workload %s", w.NetNS, errConflict, other), ns.Close())
		}
		if ws.joining != nil {
			ws.joining()
		}
		l = &localWorkload{workload: w, ns: ns}
		ws.local[key], ws.owner[ns.Cookie()] = l, key
	}
	l.close = l.close || tightened(l.workload, w)
	if err := ws.write(l, w); err != nil {
		return err
	}
	l.workload, l.held = w, time.Time{}
	if err := l.ns.Attach(); err != nil {
		return err
	}
	if !l.close {
		return nil
	}
	n, err := l.ns.CloseConnections(Plaintext, w, nil)
	if n > 0 {
		ws.log.Info("closed connections that the new mode forbids", "workload", key, "connections", n)
	}
	l.close = err != nil
	return err
}

// tightened is true when connections in the clear that were let in may not be there any more.
func tightened(before, now *model.Workload) bool {
	return now.MTLS == model.MTLSStrict && before.MTLS != model.MTLSStrict || now.Policy != nil && before.Policy == nil
}

func (ws *workloads) write(l *localWorkload, w *model.Workload) error {
	cookie := l.ns.Cookie()
	path, ok := encodePath(w.NetNS)
	if !ok {
		return fmt.Errorf("network namespace %q: the path is too long", w.NetNS)
	}
	want := entriesOf(w, cookie)
	errs := []error{ws.paths.put(cookie, path)}
	for k, v := range want.Own {
		errs = append(errs, ws.own.put(k, v))
	}
	for k, v := range want.Probes {
		errs = append(errs, ws.prob.put(k, v))
	}
	errs = append(errs, ws.pods.put(cookie, want.Flags),
		ws.own.prune(func(k weftOwnKey, _ uint32) bool { return k.Netns != cookie || want.Own[k] != 0 }),
		ws.prob.prune(func(k weftProbeKey, _ uint32) bool { return k.Netns != cookie || want.Probes[k] != 0 }))
	l.entries = want
	return errors.Join(errs...)
}

// leave takes a workload of this node out of the mesh.
func (ws *workloads) leave(key string) error {
	l := ws.local[key]
	if l == nil {
		return nil
	}
	cookie := l.ns.Cookie()
	if err := l.ns.Detach(!l.ns.Same()); err != nil {
		return fmt.Errorf("leave network namespace %s: %w", l.workload.NetNS, err)
	}
	if err := ws.forget(cookie); err != nil {
		return err
	}
	delete(ws.local, key)
	delete(ws.owner, cookie)
	return l.ns.Close()
}

// forget removes the entries of a namespace. The path goes last: while it is there, a later agent cleans up.
func (ws *workloads) forget(cookie uint64) error {
	return errors.Join(
		ws.pods.delete(cookie),
		ws.own.prune(func(k weftOwnKey, _ uint32) bool { return k.Netns != cookie }),
		ws.prob.prune(func(k weftProbeKey, _ uint32) bool { return k.Netns != cookie }),
		ws.paths.delete(cookie))
}

// moved lists the local workloads whose namespace is not the one that was joined.
func (ws *workloads) moved() map[object]struct{} {
	out := map[object]struct{}{}
	for key, l := range ws.local {
		if !l.ns.Same() {
			out[object{kindWorkload, key}] = struct{}{}
		}
	}
	return out
}

// prune removes what no workload of the model has.
func (ws *workloads) prune() error {
	errs := []error{ws.peers.prune(ws.peers.wanted)}
	for cookie, path := range maps.Clone(ws.paths.have) {
		if _, ok := ws.owner[cookie]; ok {
			continue
		}
		p := decodePath(path)
		if err := ws.space.Left(cookie, p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("namespace %s of a workload that is gone: %w", p, err))
			continue
		}
		errs = append(errs, ws.forget(cookie))
	}
	errs = append(errs, ws.pods.prune(func(c uint64, _ uint32) bool { _, ok := ws.owner[c]; return ok }))
	return errors.Join(errs...)
}
