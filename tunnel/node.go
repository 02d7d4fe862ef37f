package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

const (
	tendEvery = time.Second
	// retryEvery is when a workload that could not be applied is tried again.
	retryEvery = 2 * time.Second
)

// Node carries the connections of a node's pods.
type Node struct {
	log        *slog.Logger
	process    string          // tells it from the one before it and the next
	running    chan struct{}   // closed when Run has begun
	ctx        context.Context // Run's
	end        func()
	flows      flows
	memory     *memory
	streams    pool // which the pods share
	sessions   pool // likewise
	handshakes turns
	link       *link
	gateways   gateways
	// tasks change the pods, one after the other.
	tasks chan func()

	mu          sync.Mutex
	trustDomain string
	roots       *x509.CertPool
	bundle      string
	svids       map[model.Identity]*tls.Certificate
	pods        map[string]*pod
	failed      map[string]*Workload // that could not be applied, or have no certificate yet
	peers       map[netip.Addr]*known
	draining    bool // another process takes new connections
}

// New makes a Node that gets its workloads from the agent at a Unix socket.
func New(agent string, log *slog.Logger) *Node {
	streams, sessions := nodeLimits(openFiles())
	n := &Node{
		log: log, process: strconv.FormatInt(time.Now().UnixNano(), 36), svids: map[model.Identity]*tls.Certificate{}, pods: map[string]*pod{}, failed: map[string]*Workload{},
		peers: map[netip.Addr]*known{}, tasks: make(chan func(), 64),
		running: make(chan struct{}), memory: newMemory(), streams: pool{most: streams, weight: 1}, sessions: pool{most: sessions, weight: 1},
		handshakes: newTurns(), gateways: newGateways(),
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
	if err := n.listenForGateways(); err != nil {
		n.log.Error("requests and the connections of Gateways go by HBONE", "error", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { n.link.run(ctx) })
	wg.Go(func() { n.tend(ctx) })
	wg.Go(func() { n.work(ctx) })
	wg.Wait()
	n.mu.Lock()
	pods := n.allPods()
	n.pods, n.gateways.known = map[string]*pod{}, map[string]*gateway{}
	n.mu.Unlock()
	n.stopGateways()
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
		n.stopGateways()
		for _, p := range pods {
			p.drain()
		}
	})
}

// allPods gives what has sessions. The lock is held.
func (n *Node) allPods() []*pod {
	all := slices.Collect(maps.Values(n.pods))
	for _, g := range n.gateways.known {
		all = append(all, g.pod)
	}
	return all
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
	for _, p := range n.allPods() {
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

// hear takes in what the agent tells.
func (n *Node) hear(m *agentMessage) {
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
			n.tendGateways(now)
			n.do(n.removeDrained)
			n.endIfDrained()
		}
	}
}
