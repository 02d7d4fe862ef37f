package tunnel

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Envoy ends the connections of a Gateway's clients, and those of a pod whose requests it routes. It chooses an endpoint, and connects
// to the node's loopback. A header says whose connection it is and where to. The bytes go on in the sessions of that Gateway or pod.

const (
	headerTimeout = 2 * time.Second
	// maxHeaders bounds the connections whose header has not come, and those that wait for their owner.
	maxHeaders = 1024
	// identityTimeout bounds the wait for a pod, or a certificate, that Envoy heard of first.
	identityTimeout = time.Second
)

// gateways takes the connections of Envoy: of the node's Gateways, and of the pods whose requests it routes.
type gateways struct {
	headers chan struct{} // a place for each connection whose header has not come
	waiting chan struct{} // one for each that waits for its owner
	own     *own          // set before there is a listener

	// Guarded by the lock of the Node.
	listener *socket // nil while there is none
	port     uint16
	known    map[string]*gateway // by name: gateway/<namespace>/<name>
}

// gateway is the sessions of one Gateway. It takes none of others.
type gateway struct {
	*pod
	used time.Time
}

func newGateways() gateways {
	return gateways{known: map[string]*gateway{}, headers: make(chan struct{}, maxHeaders), waiting: make(chan struct{}, maxHeaders)}
}

// listenForGateways begins to take the connections of Envoy.
func (n *Node) listenForGateways() (err error) {
	if n.gateways.own, err = newOwn(); err != nil {
		return err
	}
	fd, port, err := listenOnLoopback(filepath.Join(filepath.Dir(n.link.path), GatewayPortFile))
	if err != nil {
		return fmt.Errorf("listen for the connections of Envoy: %w", err)
	}
	l, err := newSocket(fd)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.gateways.listener, n.gateways.port = l, port
	n.mu.Unlock()
	go func() {
		acceptor{
			log: n.log.With("for", "Gateways"), serve: n.gatewayConnection,
			closed: func() bool { return n.ctx.Err() != nil },
		}.acceptAll(l)
		l.close()
	}()
	return nil
}

// tellGatewayPort tells the agent where Envoy's connections are taken, if they are. stopGateways tells it when they are not any more, and
// later.
func (n *Node) tellGatewayPort() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gateways.listener != nil {
		n.link.enqueue(tunnelMessage{GatewayPort: n.gateways.port, Process: n.process})
	}
}

// stopGateways takes no new connections of Envoy.
func (n *Node) stopGateways() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gateways.listener != nil {
		n.gateways.listener.interrupt()
		n.gateways.listener = nil
		n.link.enqueue(tunnelMessage{Draining: true})
	}
	for _, g := range n.gateways.known {
		g.drain()
	}
}

// gatewayConnection does not wait.
func (n *Node) gatewayConnection(fd int, from netip.AddrPort) {
	app, err := newSocket(fd)
	if err != nil {
		_ = unix.Close(fd)
		return
	}
	select {
	case n.gateways.headers <- struct{}{}:
	default:
		app.resetOnClose()
		app.close()
		return
	}
	go func() {
		h, err := n.header(app, from)
		<-n.gateways.headers
		var p *pod
		if err == nil {
			p, err = n.awaitOwner(h)
		}
		if err != nil {
			n.log.Debug("a connection of Envoy's was refused", "from", from, "owner", h.owner, "error", err)
			app.resetOnClose()
			app.close()
			return
		}
		p.arrived(app, p.clientOf(h, from.Port()), h.target())
	}()
}

// header reads the header of a connection. Only Envoy may send one: it speaks for any pod and Gateway of the node.
func (n *Node) header(app *socket, from netip.AddrPort) (gatewayHeader, error) {
	if err := n.gateways.own.peer(app, from); err != nil {
		return gatewayHeader{}, err
	}
	_ = app.file.SetReadDeadline(time.Now().Add(headerTimeout))
	h, err := readGatewayHeader(app.file)
	if err != nil {
		return gatewayHeader{}, err
	}
	return h, app.file.SetReadDeadline(time.Time{})
}

// awaitOwner returns the pod or Gateway whose connection it is. The agent may tell Envoy of one first.
func (n *Node) awaitOwner(h gatewayHeader) (*pod, error) {
	p, err := n.ownerOf(h)
	if err == nil {
		return p, nil
	}
	select {
	case n.gateways.waiting <- struct{}{}:
		defer func() { <-n.gateways.waiting }()
	default:
		return nil, err
	}
	for began := time.Now(); err != nil && time.Since(began) < identityTimeout; {
		time.Sleep(refusedPause)
		p, err = n.ownerOf(h)
	}
	return p, err
}

func (n *Node) ownerOf(h gatewayHeader) (*pod, error) {
	if _, ok := n.credentials(h.identity); !ok {
		return nil, fmt.Errorf("there is no certificate of %s", h.identity)
	}
	if strings.Count(h.owner, "/") == 2 { // gateway/<namespace>/<name>
		return n.gatewayOf(h)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.pods[h.owner]
	if p == nil {
		return nil, fmt.Errorf("there is no pod %s on this node", h.owner)
	}
	if id := p.spec.Load().Identity; id != h.identity {
		return nil, fmt.Errorf("the identity of pod %s is %q and not %q", h.owner, id, h.identity)
	}
	if !n.draining && p.isDrained() {
		return nil, fmt.Errorf("pod %s has left the mesh", h.owner)
	}
	return p, nil
}

// clientOf returns the client that flows name, whose port the application at the destination sees too. A connection that carries the
// requests of several clients has none: it has the owner's own address, and the port of Envoy's end.
func (p *pod) clientOf(h gatewayHeader, port uint16) netip.AddrPort {
	if !h.client.Addr().IsUnspecified() {
		return h.client
	}
	if a := p.addressOf(h.to.Addr()); a.IsValid() {
		return netip.AddrPortFrom(a, port)
	}
	return netip.AddrPortFrom(p.ns.addressTo(h.to.Addr()), port)
}

// gatewayOf returns what carries the connections of a Gateway.
func (n *Node) gatewayOf(h gatewayHeader) (*pod, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	g := n.gateways.known[h.owner]
	if g == nil {
		p, err := newPod(n, &Workload{Key: h.owner, NetNS: hostNamespace, Identity: h.identity})
		if err != nil {
			return nil, err
		}
		p.inbound.most = n.streams.most / podShare // it has many clients
		g = &gateway{pod: p}
		n.gateways.known[h.owner] = g
	}
	g.used = time.Now()
	if w := g.spec.Load(); w.Identity != h.identity {
		g.spec.Store(&Workload{Key: h.owner, NetNS: hostNamespace, Identity: h.identity})
		g.renew()
	}
	return g.pod, nil
}

// tendGateways looks after the sessions of Gateways, and forgets Gateways that have none.
func (n *Node) tendGateways(now time.Time) {
	n.mu.Lock()
	var gone []*gateway
	maps.DeleteFunc(n.gateways.known, func(_ string, g *gateway) bool {
		if !g.unused() {
			g.used = now
		}
		if now.Sub(g.used) < idleSession {
			return false
		}
		gone = append(gone, g)
		return true
	})
	left := slices.Collect(maps.Values(n.gateways.known))
	n.mu.Unlock()
	for _, g := range gone {
		g.close()
	}
	for _, g := range left {
		g.tend(now)
	}
}

// unused reports whether a pod carries nothing out.
func (p *pod) unused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outbound.Load() == 0 && len(p.routes) == 0
}
