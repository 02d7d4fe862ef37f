package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

const (
	tendEvery = time.Second
	// peerKept is how long a peer that nobody asks for is remembered.
	peerKept = 10 * time.Minute
	// retryEvery is when a workload that could not be applied is tried again.
	retryEvery = 2 * time.Second
	// leaveTime is how long what the agent takes away still works: the kernels of other nodes lead connections here until they
	// know, and those that are on their way end well. Each of them is authenticated as before.
	leaveTime = 5 * time.Second
)

// Node carries the connections of a node's pods.
type Node struct {
	log     *slog.Logger
	running chan struct{}   // closed when Run has begun
	ctx     context.Context // Run's
	end     func()
	flows   flows
	memory  *memory
	link    *link
	// tasks change the pods, one after the other.
	tasks chan func()

	mu          sync.Mutex
	trustDomain string
	roots       *x509.CertPool
	bundle      string
	svids       map[model.Identity]*tls.Certificate
	pods        map[string]*pod
	failed      map[string]*Workload // that could not be applied
	peers       map[netip.Addr]*known
	draining    bool // another process takes new connections
}

// known is what the agent said of an address.
type known struct {
	told     chan struct{} // closed when the agent has said something
	identity model.Identity
	used     time.Time
	leaving  *time.Timer // until nobody is there; nil if somebody is
}

// New makes a Node that is told by the agent at a Unix socket.
func New(agent string, log *slog.Logger) *Node {
	n := &Node{
		log: log, svids: map[model.Identity]*tls.Certificate{}, pods: map[string]*pod{}, failed: map[string]*Workload{},
		peers: map[netip.Addr]*known{}, tasks: make(chan func(), 64),
		running: make(chan struct{}), memory: newMemory(),
	}
	n.link = newLink(agent, n)
	return n
}

// Run works until ctx ends. Then connections end too.
func (n *Node) Run(ctx context.Context) error {
	n.ctx, n.end = context.WithCancel(ctx)
	ctx = n.ctx
	defer n.end()
	close(n.running)
	var wg sync.WaitGroup
	wg.Go(func() { n.link.run(ctx) })
	wg.Go(func() { n.tend(ctx) })
	wg.Go(func() { n.work(ctx) })
	wg.Wait()
	n.mu.Lock()
	pods := slices.Collect(maps.Values(n.pods))
	n.pods = map[string]*pod{}
	n.mu.Unlock()
	for _, p := range pods {
		p.close()
	}
	return nil
}

// Drain makes Run take no new connections, and end when it carries none.
func (n *Node) Drain() {
	<-n.running
	n.do(func() {
		n.mu.Lock()
		n.draining = true
		pods := slices.Collect(maps.Values(n.pods))
		n.mu.Unlock()
		n.log.Info("draining: another process takes new connections")
		for _, p := range pods {
			p.drain()
		}
	})
}

func (n *Node) isDraining() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.draining
}

// endIfDrained ends Run when nothing is left to carry.
func (n *Node) endIfDrained() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.draining {
		return
	}
	for _, p := range n.pods {
		if !p.idle() {
			return
		}
	}
	n.end()
}

// do lets work do something.
func (n *Node) do(task func()) {
	select {
	case n.tasks <- task:
	case <-n.ctx.Done():
	}
}

// work does what the agent tells, and tries again what failed.
func (n *Node) work(ctx context.Context) {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-n.tasks:
			f()
		case <-tick.C:
			n.retry()
		}
	}
}

// credentials are an identity's, if it has a certificate and the roots are known.
func (n *Node) credentials(id model.Identity) (credentials, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.svids[id]
	return credentials{certificate: c, roots: n.roots, trustDomain: n.trustDomain}, c != nil && n.roots != nil
}

// peerAt gives the identity that the pod at an address must have, and whether the pod leaves the mesh. The agent is asked
// once. If it has not said anything yet, peerAt fails with errWait unless it may wait.
func (n *Node) peerAt(a netip.Addr, wait bool) (id model.Identity, leaves bool, err error) {
	n.mu.Lock()
	k := n.peers[a]
	if k == nil {
		k = &known{told: make(chan struct{})}
		n.peers[a] = k
		n.link.want(a)
	}
	k.used = time.Now()
	n.mu.Unlock()
	if err := n.awaitTold(k, a, wait); err != nil {
		return "", false, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if k.identity == "" {
		return "", false, fmt.Errorf("%s: %w", a, errNobody)
	}
	return k.identity, k.leaving != nil, nil
}

func (n *Node) awaitTold(k *known, a netip.Addr, wait bool) error {
	select {
	case <-k.told:
		return nil
	default:
		if !wait {
			return errWait
		}
	}
	timeout := time.NewTimer(peerTimeout)
	defer timeout.Stop()
	select {
	case <-k.told:
		return nil
	case <-timeout.C:
		return fmt.Errorf("the agent does not say who is at %s", a)
	case <-n.ctx.Done():
		return n.ctx.Err()
	}
}

// hear takes in what the agent tells.
func (n *Node) hear(m *told) {
	switch {
	case m.Hello != nil:
		n.mu.Lock()
		n.trustDomain = m.Hello.TrustDomain
		n.mu.Unlock()
	case m.Workload != nil:
		n.apply(m.Workload)
	case m.Gone != "":
		n.leave(m.Gone)
	case m.SVID != nil:
		n.takeSVID(m.SVID)
	case m.Bundle != nil:
		n.takeBundle(m.Bundle)
	case m.Peer != nil:
		n.takePeer(m.Peer)
	}
}

// keep forgets the workloads and identities that the agent did not tell of since the link was made.
func (n *Node) keep(workloads map[string]bool, ids map[model.Identity]bool) {
	n.mu.Lock()
	var gone []string
	for key := range n.pods {
		if !workloads[key] {
			gone = append(gone, key)
		}
	}
	maps.DeleteFunc(n.failed, func(key string, _ *Workload) bool { return !workloads[key] })
	var unused []model.Identity
	for id := range n.svids {
		if !ids[id] {
			unused = append(unused, id)
		}
	}
	n.mu.Unlock()
	for _, key := range gone {
		n.leave(key)
	}
	for _, id := range unused {
		n.leaveIdentity(id)
	}
}

// leave takes a pod out of the mesh: after leaveTime it takes nothing new, and it goes with its last stream.
func (n *Node) leave(key string) {
	n.mu.Lock()
	p := n.pods[key]
	delete(n.failed, key)
	n.mu.Unlock()
	if p == nil || p.leaving {
		return
	}
	p.leaving = true
	p.reserves.Store(true)
	p.reservePorts(netip.Addr{})
	p.applied++
	applied := p.applied
	n.later(func() {
		if p.applied == applied {
			p.drain()
			p.drained = true
		}
	})
}

// removeDrained removes the pods that left and carry nothing any more.
func (n *Node) removeDrained() {
	n.mu.Lock()
	var gone []string
	for key, p := range n.pods {
		if p.drained && p.idle() {
			gone = append(gone, key)
		}
	}
	n.mu.Unlock()
	for _, key := range gone {
		n.remove(key)
	}
}

// leaveIdentity forgets a certificate unless another one comes within leaveTime.
func (n *Node) leaveIdentity(id model.Identity) {
	n.mu.Lock()
	c := n.svids[id]
	n.mu.Unlock()
	n.later(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.svids[id] == c {
			delete(n.svids, id)
		}
	})
}

// later lets work do something after leaveTime.
func (n *Node) later(task func()) { time.AfterFunc(leaveTime, func() { n.do(task) }) }

// apply makes a workload's pod as it says. It is a task, as are all that change pods.
func (n *Node) apply(w *Workload) {
	if w.Identity == "" {
		n.disable(w)
		return
	}
	err := n.applyPod(w)
	n.mu.Lock()
	delete(n.failed, w.Key)
	if err == nil {
		if n.svids[w.Identity] == nil || n.roots == nil {
			err = fmt.Errorf("there is no certificate of %s", w.Identity)
		}
	}
	if err != nil && !n.draining {
		n.failed[w.Key] = w
	}
	n.mu.Unlock()
	n.link.applied(w, err)
}

var errDraining = errors.New("another process takes new connections")

// disable lets a pod leave that has no identity any more. Its policy still holds for the streams that it has.
func (n *Node) disable(w *Workload) {
	n.mu.Lock()
	p := n.pods[w.Key]
	n.mu.Unlock()
	if p != nil && p.isIn(w) {
		p.police(w.Policy)
	}
	n.leave(w.Key)
}

func (n *Node) applyPod(w *Workload) error {
	n.mu.Lock()
	p := n.pods[w.Key]
	n.mu.Unlock()
	if p == nil && n.isDraining() {
		return errDraining
	}
	if p != nil {
		if p.isIn(w) {
			return p.apply(w)
		}
		n.remove(w.Key)
	}
	p, err := newPod(n, w)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.pods[w.Key] = p
	n.mu.Unlock()
	return p.apply(w)
}

func (n *Node) remove(key string) {
	n.mu.Lock()
	p := n.pods[key]
	delete(n.pods, key)
	delete(n.failed, key)
	n.mu.Unlock()
	if p != nil {
		p.close()
	}
}

func (n *Node) takeSVID(s *svid) {
	if len(s.Chain) == 0 {
		n.leaveIdentity(s.Identity)
		return
	}
	c, err := parseCertificate(s.Chain, s.Key)
	if err != nil {
		n.log.Error("a certificate cannot be read; the last one stays", "identity", s.Identity, "error", err)
		return
	}
	n.mu.Lock()
	n.svids[s.Identity] = c
	n.mu.Unlock()
	n.retry()
}

func (n *Node) takeBundle(pem []byte) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		n.log.Error("the trust bundle cannot be read; the last one stays")
		return
	}
	n.mu.Lock()
	first, same := n.roots == nil, n.bundle == string(pem)
	n.roots, n.bundle = roots, string(pem)
	pods := slices.Collect(maps.Values(n.pods))
	n.mu.Unlock()
	if !first && !same {
		for _, p := range pods {
			p.renew() // who was trusted may not be any more
		}
	}
	n.retry()
}

func (n *Node) takePeer(m *peer) {
	if !n.setPeer(m) {
		return
	}
	n.mu.Lock()
	pods := slices.Collect(maps.Values(n.pods))
	n.mu.Unlock()
	for _, p := range pods {
		p.reservePorts(m.Address)
	}
}

// setPeer keeps what the agent said of an address, and reports whether who was there leaves.
func (n *Node) setPeer(m *peer) (leaves bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.peers[m.Address]
	if k == nil {
		return false
	}
	if k.identity != "" && m.Identity == "" {
		if k.leaving != nil {
			return false
		}
		before := k.identity
		k.leaving = time.AfterFunc(leaveTime, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			if k.leaving != nil && k.identity == before {
				k.identity = ""
			}
		})
		return true
	}
	if k.leaving != nil {
		k.leaving.Stop()
		k.leaving = nil
	}
	k.identity = m.Identity
	select {
	case <-k.told:
	default:
		close(k.told)
	}
	return false
}

// retry applies what failed once more.
func (n *Node) retry() {
	n.mu.Lock()
	failed := slices.Collect(maps.Values(n.failed))
	n.mu.Unlock()
	for _, w := range failed {
		n.apply(w)
	}
}

// tend looks after sessions and forgets peers.
func (n *Node) tend(ctx context.Context) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			n.mu.Lock()
			pods := slices.Collect(maps.Values(n.pods))
			for a, k := range n.peers {
				if now.Sub(k.used) > peerKept {
					delete(n.peers, a)
					n.link.forget(a)
				}
			}
			n.mu.Unlock()
			for _, p := range pods {
				p.tend(now)
			}
			n.do(n.removeDrained)
			n.endIfDrained()
		}
	}
}

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
	for s := range accepted {
		s.check(now)
	}
}

// wanted are the peers that the agent is to tell of.
func (n *Node) wanted() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.peers))
}
