package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// namespaces is what is done in the pods' network namespaces. The kernel's is kernelNamespaces; tests have a fake.
type namespaces interface {
	// Open gives a namespace by its path. It fails with os.ErrNotExist if there is none.
	Open(path string) (namespace, error)
	// Left removes what an earlier agent left for a namespace whose workload is gone.
	Left(cookie uint64, path string) error
	// Datagrams lists the UDP sockets of namespaces that connect() led to a Service's backend.
	Datagrams(in []namespace) ([]datagram, error)
}

type namespace interface {
	Cookie() uint64
	// Same reports whether the path still leads here.
	Same() bool
	// Joined reports whether an inbound program is attached, possibly by an earlier agent.
	Joined() bool
	// Attach attaches the inbound program, which refuses what the entry in pods does not allow. Where retain is true, the
	// program of an earlier version stays. It may be called again.
	Attach(retain bool) error
	// Check compares what Attach did with the kernel, and puts right what somebody changed. attached is false if Attach
	// did nothing yet.
	Check() (r repair, attached bool)
	// Route sets up what Envoy needs to reach the workload with the client's address: settings, rules and routes.
	// ipv6 says that the workload has an IPv6 address. It may be called again.
	Route(ipv6 bool) error
	// Detach undoes Attach. If the pod is dead, its sockets are destroyed; else only Envoy's connections.
	Detach(dead bool) error
	// CloseConnections destroys those live inbound connections that end picks by their ends.
	CloseConnections(end func(local, remote netip.AddrPort) bool) (int, error)
	// EndDatagrams destroys sockets of this namespace that Datagrams listed. Those that have another peer by now live on.
	EndDatagrams([]datagram) error
	Close() error
}

// workloads writes peers, pods, own, probes and namespaces, and looks after the namespaces of local workloads.
type workloads struct {
	log   *slog.Logger
	space namespaces
	peers *claims[weftAddress, uint32]
	// inspected is written before the flag in peers that makes programs look there.
	inspected *claims[weftEndpoint, uint32]
	pods      *mirror[uint64, uint32]
	paths     *mirror[uint64, weftPath]
	own       *mirror[weftOwnKey, uint32]
	selves    *mirror[weftSelfKey, weftAddress]
	probes    *probeMaps
	local     map[string]*localWorkload
	owner     map[uint64]string // namespace cookie -> workload
	// probing reports whether a connection is one of the host's own processes that probes a workload; nil for none.
	probing func(local, remote netip.AddrPort) bool
	// serves reports whether a backend serves the UDP sockets that a Service's address led to it.
	serves func(service, backend netip.AddrPort) bool
	// retainPrograms leaves programs of an earlier version in the pods' namespaces.
	retainPrograms bool
	// tunnel hands the bytes of local workloads to weft tunnel, for peers on nodes that accept it.
	tunnel bool
	// accepts reports whether a node accepts connections by weft tunnel.
	accepts func(node string) bool
}

type localWorkload struct {
	workload *model.Workload
	ns       namespace
	close    bool       // connections in the clear are still to be closed
	stray    []datagram // that are still to be ended
	retained bool       // the workload is gone, and its namespace is still closed
	closing  error      // why the last request to close connections failed; nil if it did not
}

func newWorkloads(log *slog.Logger, t tables, space namespaces) (*workloads, error) {
	w := &workloads{log: log, space: space, local: map[string]*localWorkload{}, owner: map[uint64]string{}}
	var errs [7]error
	w.peers, errs[0] = newClaims("peers", t.peers, func(a weftAddress) string { return "address " + decodeAddr(a).String() })
	w.inspected, errs[6] = newClaims("inspected_ports", t.inspected, func(e weftEndpoint) string { return "endpoint " + decode(e).String() })
	w.pods, errs[1] = newMirror("pods", t.pods)
	w.paths, errs[2] = newMirror("namespaces", t.namespaces)
	w.own, errs[3] = newMirror("own", t.own)
	w.probes, errs[4] = newProbeMaps(t)
	w.selves, errs[5] = newMirror("selves", t.selves)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	// Nobody can tell which of two workloads is at an address, so neither has an identity there.
	w.peers.ambiguous = new(uint32(addressContested))
	return w, nil
}

// apply makes a workload's entries; nil removes it.
func (ws *workloads) apply(key string, w *model.Workload) error {
	err := ws.applyPeer(key, w)
	if w == nil || !joinable(w) {
		return errors.Join(err, ws.leave(key))
	}
	return errors.Join(err, ws.join(key, w))
}

// applyPeer makes a workload's entries for those who connect to it; nil removes them.
func (ws *workloads) applyPeer(key string, w *model.Workload) error {
	if w == nil {
		return errors.Join(errors.Join(ws.peers.set(key, nil)), errors.Join(ws.inspected.set(key, nil)))
	}
	ports := inspectedPorts(w)
	if len(ports) == 0 {
		// Flags first: without its ports an address with peerSomePorts would have none that Envoy takes.
		err := errors.Join(ws.peers.set(key, peerEntries(w, ws.unreached(w), false)))
		return errors.Join(err, errors.Join(ws.inspected.set(key, nil)))
	}
	_, err := ws.inspected.set(key, ports)
	return errors.Join(err, errors.Join(ws.peers.set(key, peerEntries(w, ws.unreached(w), err == nil))))
}

// ownerService begins the names of Services as owners of peers.
const ownerService = "Service "

// closeService closes addresses of a Service that the kernel does not balance, and opens others that it had closed.
func (ws *workloads) closeService(key string, addresses []netip.Addr) error {
	want := map[weftAddress]uint32{}
	for _, a := range addresses {
		if model.IsRoutable(a) {
			want[encodeAddr(a)] = addressContested
		}
	}
	return errors.Join(ws.peers.set(ownerService+key, want))
}

// unreached reports whether weft tunnel is used and cannot reach a workload.
func (ws *workloads) unreached(w *model.Workload) bool {
	return ws.tunnel && !w.Local && !ws.accepts(w.Node)
}

// closedNamespace reports whether a local workload restricts who may connect to it, and its network namespace is still
// there.
func (ws *workloads) closedNamespace(key string) bool {
	l := ws.local[key]
	return l != nil && entriesOf(l.workload, 0).Flags&(workloadStrict|workloadPoliced) != 0 && l.ns.Same()
}

// retain keeps the network namespace of a workload that is gone closed, until another workload has it or it leaves.
func (ws *workloads) retain(key string, w *model.Workload) error {
	ws.local[key].retained = true
	return ws.applyPeer(key, w)
}

// joinable reports whether a workload runs on this node, in a network namespace that is known.
func joinable(w *model.Workload) bool { return w.Local && w.NetNS != "" }

// firstIdentity reports whether a workload that is joined without an identity gets one.
func (ws *workloads) firstIdentity(key string, w *model.Workload) bool {
	l := ws.local[key]
	return l != nil && l.workload.Identity == "" && w.Identity != "" && l.workload.NetNS == w.NetNS
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
		other, taken := ws.owner[ns.Cookie()]
		switch {
		case !taken:
			l = &localWorkload{workload: w, ns: ns}
		case ws.local[other].retained:
			if err := ws.probes.set(other, probeEntries{}); err != nil {
				return errors.Join(err, ns.Close())
			}
			if err := ns.Close(); err != nil {
				return err
			}
			l = ws.local[other]
			delete(ws.local, other)
		default:
			return errors.Join(fmt.Errorf("network namespace %s %w by workload %s", w.NetNS, errConflict, other), ns.Close())
		}
		ws.local[key], ws.owner[l.ns.Cookie()] = l, key
	}
	l.retained = false
	cookie := l.ns.Cookie()
	want := entriesOf(w, cookie)
	if ws.tunnel && w.Identity != "" {
		want.Flags |= workloadTunnel
	}
	before, known := ws.pods.have[cookie]
	if !known && l.ns.Joined() {
		before = want.Flags // an earlier version enforced them, with maps of another layout
	}
	l.close = l.close || tightened(before, want.Flags)
	// The workload is closed first: whatever fails after that leaves it closed.
	enforced := ws.enforce(l.ns, want.Flags)
	if enforced == nil {
		l.workload = w
	}
	return errors.Join(enforced, ws.describe(key, cookie, w.NetNS, want), l.ns.Route(hasIPv6(w)), ws.closePlaintext(key, l, w), ws.endStray(key, l))
}

// tightened reports whether connections in the clear that were let in are forbidden now.
func tightened(before, now uint32) bool {
	return now&^before&(workloadStrict|workloadPoliced) != 0
}

func hasIPv6(w *model.Workload) bool {
	return slices.ContainsFunc(slices.Concat(w.Addresses, w.Contested), func(a netip.Addr) bool { return a.Unmap().Is6() })
}

// enforce writes the workload's flags and attaches the program that enforces them.
func (ws *workloads) enforce(ns namespace, flags uint32) error {
	flags |= ws.pods.have[ns.Cookie()] >> callerShift << callerShift
	err := ws.pods.put(ns.Cookie(), flags)
	if err != nil {
		if flags&(workloadStrict|workloadPoliced) == 0 {
			return err // without an entry the program would refuse what is allowed
		}
		// Older flags may allow more. Without an entry the program refuses.
		err = errors.Join(err, ws.pods.delete(ns.Cookie()))
	}
	return errors.Join(err, ns.Attach(ws.retainPrograms))
}

// describe writes what else the programs know of a local workload.
func (ws *workloads) describe(key string, cookie uint64, netns string, want localEntries) error {
	var errs []error
	if path, ok := encodePath(netns); ok {
		errs = append(errs, ws.paths.put(cookie, path))
	} else {
		errs = append(errs, fmt.Errorf("network namespace %q: the path is too long", netns))
	}
	for k, v := range want.Own {
		errs = append(errs, ws.own.put(k, v))
	}
	for k, v := range want.Self {
		errs = append(errs, ws.selves.put(k, v))
	}
	errs = append(errs, ws.probes.set(key, want.Probes))
	return errors.Join(append(errs,
		ws.selves.prune(func(k weftSelfKey, _ weftAddress) bool { return k.Netns != cookie || want.Self[k] != weftAddress{} }),
		ws.own.prune(func(k weftOwnKey, _ uint32) bool { return k.Netns != cookie || want.Own[k] != 0 }))...)
}

// closePlaintext ends connections that were let in before the workload became strict or got its first policy.
func (ws *workloads) closePlaintext(key string, l *localWorkload, w *model.Workload) error {
	if !l.close {
		return nil
	}
	n, err := l.ns.CloseConnections(ws.selected(w, Plaintext, nil))
	if n > 0 {
		ws.log.Info("closed connections that the new mode forbids", "workload", key, "connections", n)
	}
	l.close = err != nil
	return err
}

// closeConnections ends live connections of a local workload and returns how many there were.
func (ws *workloads) closeConnections(key string, which Connections, forbidden func(local, remote netip.AddrPort) bool) (int, error) {
	l := ws.local[key]
	if l == nil {
		return 0, fmt.Errorf("workload %s is not on this node", key)
	}
	n, err := l.ns.CloseConnections(ws.selected(l.workload, which, forbidden))
	l.closing = nil
	if err != nil {
		l.closing = fmt.Errorf("connections that are forbidden now live on: %w", err)
		return n, fmt.Errorf("workload %s: %w", key, err)
	}
	return n, nil
}

// selected picks the inbound connections to close by their ends.
func (ws *workloads) selected(w *model.Workload, which Connections, forbidden func(local, remote netip.AddrPort) bool) func(local, remote netip.AddrPort) bool {
	return func(local, remote netip.AddrPort) bool {
		if local.Port() == portTunnel && w.Identity != "" {
			return false // a session carries many connections: weft tunnel ends those that a policy forbids
		}
		authenticated := local.Port() == portHBONE && w.Identity != ""
		if authenticated && which == Plaintext || !authenticated && which == Authenticated {
			return false
		}
		if !authenticated && ws.probing != nil && ws.probing(local, remote) {
			return false
		}
		return forbidden == nil || forbidden(local, remote)
	}
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
	if err := errors.Join(ws.forget(cookie), ws.probes.set(key, probeEntries{})); err != nil {
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
		ws.selves.prune(func(k weftSelfKey, _ weftAddress) bool { return k.Netns != cookie }),
		ws.paths.delete(cookie))
}

// prune removes what no workload of the model has.
func (ws *workloads) prune() error {
	errs := []error{ws.peers.prune(ws.peers.wanted), ws.inspected.prune(ws.inspected.wanted), ws.probes.prune()}
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
	// A namespace that is recorded may have the inbound program, which refuses everything without an entry.
	errs = append(errs, ws.pods.prune(func(c uint64, _ uint32) bool {
		_, owned := ws.owner[c]
		_, recorded := ws.paths.have[c]
		return owned || recorded
	}))
	return errors.Join(errs...)
}
