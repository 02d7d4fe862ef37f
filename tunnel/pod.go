package tunnel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// Limits of a pod. What is beyond them is reset.
const (
	maxStreams    = 10_000  // in each direction
	nodeStreams   = 100_000 // of all pods of a node; past half, one has at most as many as are left
	nodeSessions  = 16_384  // in both directions, likewise
	maxSessions   = 4096    // that other pods opened; one may have half of what the others leave
	maxHandshakes = 256     // of other pods, at once
	// maxHandshakesOf is how many one of them makes at once.
	maxHandshakesOf = 16
	// peerStreams is how many streams a peer may have for each one that is left to others: four fifths of all, if it is
	// alone.
	peerStreams = 4

	goAwayTime = 10 * time.Second
)

// pod is a local workload: its namespace, its listeners and its sessions.
type pod struct {
	node *Node
	ns   *namespace

	spec   atomic.Pointer[Workload]
	policy atomic.Pointer[model.Policy]

	// Of the goroutine that works: the pod has no identity any more; it takes nothing new; changes of both.
	leaving, drained bool
	applied          int

	// reserves is true while the pod has no identity: its applications connect directly.
	reserves atomic.Bool

	outbound   atomic.Int64 // streams
	inbound    pool         // streams, which the peers share
	streams    *share       // of the node's, in both directions
	onNode     *share       // sessions of the node's, in both directions
	memory     *podMemory
	handshakes handshakes

	mu        sync.Mutex
	listeners map[netip.AddrPort]*socket
	routes    map[netip.Addr]*route // sessions to other pods
	accepted  map[*session]*visitor // sessions of other pods
	sessions  pool                  // their number, which the peers share
	guests    map[netip.Addr]*guest
	drainedAt time.Time // zero if the pod takes new connections
	closed    bool
}

// emptyPod makes a pod without a namespace.
func (n *Node) emptyPod() *pod {
	return &pod{
		node: n, memory: n.memory.newShare(), streams: n.streams.newShare(), onNode: n.sessions.newShare(),
		listeners: map[netip.AddrPort]*socket{}, routes: map[netip.Addr]*route{}, accepted: map[*session]*visitor{},
		guests:   map[netip.Addr]*guest{},
		inbound:  pool{most: min(maxStreams, n.streams.most/podShare), weight: peerStreams},
		sessions: pool{most: min(maxSessions, n.sessions.most/podShare), weight: 1},
	}
}

func newPod(n *Node, w *Workload) (*pod, error) {
	ns, err := openNamespace(w.NetNS)
	if err != nil {
		return nil, err
	}
	p := n.emptyPod()
	p.ns = ns
	p.spec.Store(w)
	p.policy.Store(w.Policy)
	return p, nil
}

// loopbacks are where the pod's applications are led to.
func loopbacks(w *Workload) []netip.AddrPort {
	at := []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), model.PortTunnelOut)}
	for _, a := range w.Addresses {
		if a.Is6() {
			return append(at, netip.AddrPortFrom(netip.IPv6Loopback(), model.PortTunnelOut))
		}
	}
	return at
}

// isIn reports whether the pod's namespace is that of a workload.
func (p *pod) isIn(w *Workload) bool {
	spec := p.spec.Load()
	return spec.NetNS == w.NetNS && spec.Inode == w.Inode
}

// police puts a policy in force, for streams that live on too.
func (p *pod) police(policy *model.Policy) {
	if old := p.policy.Swap(policy); !reflect.DeepEqual(old, policy) {
		p.enforce()
	}
}

// apply makes the pod as w says.
func (p *pod) apply(w *Workload) error {
	p.leaving, p.drained = false, false
	p.reserves.Store(false)
	p.applied++
	old := p.spec.Swap(w)
	p.police(w.Policy)
	want := map[netip.AddrPort]func(*socket, netip.AddrPort){}
	for _, at := range loopbacks(w) {
		want[at] = p.takeApplications
	}
	for _, a := range w.Addresses {
		want[netip.AddrPortFrom(a, model.PortTunnel)] = p.takeSessions
	}
	err := errDraining
	if !p.node.isDraining() {
		p.mu.Lock()
		p.drainedAt = time.Time{}
		p.mu.Unlock()
		err = p.listen(want)
	}
	if old.Identity != w.Identity {
		p.renew()
	}
	return err
}

// listen makes the listeners that are wanted, and no others.
func (p *pod) listen(want map[netip.AddrPort]func(*socket, netip.AddrPort)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("the pod is gone")
	}
	for at, s := range p.listeners {
		if want[at] == nil {
			s.interrupt()
			delete(p.listeners, at)
		}
	}
	var errs []error
	for at, serve := range want {
		if p.listeners[at] != nil {
			continue
		}
		s, err := p.ns.listen(at)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.listeners[at] = s
		go func() {
			serve(s, at)
			s.close()
		}()
	}
	return errors.Join(errs...)
}

// enforce resets the streams that the policy does not allow any more.
func (p *pod) enforce() {
	p.mu.Lock()
	sessions := maps.Clone(p.accepted)
	p.mu.Unlock()
	for s, v := range sessions {
		s.mu.Lock()
		for _, st := range s.streams {
			if d := decide(p.policy.Load(), v.identity, st.port); d != st.decided {
				st.abort(reasonDenied, reasonDenied)
			}
		}
		s.mu.Unlock()
	}
}

// renew lets sessions serve the streams that they have, and no more: credentials have changed.
func (p *pod) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.routes {
		r.retire()
	}
	for s := range p.accepted {
		s.goAway()
	}
}

func (p *pod) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// drain takes no new connections.
func (p *pod) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.listeners {
		s.interrupt()
	}
	p.listeners = map[netip.AddrPort]*socket{}
	p.drainedAt = time.Now()
	for s := range p.accepted {
		s.goAway()
	}
}

// isDrained reports whether the pod takes nothing new.
func (p *pod) isDrained() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.drainedAt.IsZero()
}

// idle reports whether a pod that is drained carries no stream, and will get none: those who opened sessions to it end them
// when they know. One that does not is waited for for goAwayTime.
func (p *pod) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inbound.used.Load() > 0 || p.outbound.Load() > 0 {
		return false
	}
	return len(p.accepted) == 0 && p.handshakes.none() || time.Since(p.drainedAt) > goAwayTime
}

// close ends everything of the pod.
func (p *pod) close() {
	p.mu.Lock()
	p.closed = true
	for _, s := range p.listeners {
		s.interrupt()
	}
	accepted, routes := p.accepted, p.routes
	p.accepted, p.routes, p.listeners = map[*session]*visitor{}, map[netip.Addr]*route{}, nil
	p.mu.Unlock()
	for s := range accepted {
		s.end(errPodGone)
	}
	for _, r := range routes {
		r.close()
	}
	p.ns.close()
}

var errPodGone = errors.New("the pod is gone")

// credentials are the pod's at this moment.
func (p *pod) credentials() (credentials, error) {
	id := p.spec.Load().Identity
	c, ok := p.node.credentials(id)
	if !ok {
		return credentials{}, fmt.Errorf("there is no certificate of %s", id)
	}
	return c, nil
}

// tend looks after the pod's sessions.
func (p *pod) tend(now time.Time) {
	p.mu.Lock()
	routes, accepted := maps.Clone(p.routes), maps.Clone(p.accepted)
	p.mu.Unlock()
	for to, r := range routes {
		if r.tend(now) {
			p.mu.Lock()
			if p.routes[to] == r {
				delete(p.routes, to)
			}
			p.mu.Unlock()
		}
	}
	for s, v := range accepted {
		s.check(now)
		if now.After(v.until) && s.leftFor(now) == 0 {
			s.goAway()
		}
	}
}
