package relay

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/weft-mesh/weft/internal/hubble"
)

const (
	// connsOfNode is how many connections a node may have: an agent's, and that of the next one, which starts beside it. The
	// oldest gives way to another.
	connsOfNode = 2
	// alive is how often an agent is asked whether it is there, and recheck how often whether its node should have one.
	alive, recheck = 20 * time.Second, 30 * time.Second
	// maxAnswer bounds a message of an agent, in bytes.
	maxAnswer = 1 << 20
)

// Nodes are the nodes whose agents are connected.
type Nodes struct {
	expected func() []string // the nodes that have an agent
	log      *slog.Logger

	mu      sync.Mutex
	conns   map[string][]*node // by name, the newest last
	changed chan struct{}      // closed, and replaced, when a connection comes or goes
	closed  bool               // no connection is taken any more
}

// node is a connection of an agent.
type node struct {
	name, address string
	client        observerpb.ObserverClient
	grpc          grpc.ClientConnInterface // what client asks by
	conn          *once
	gone          chan struct{} // closed when the connection is
}

// NewNodes makes Nodes. expected returns the names of the nodes that have an agent.
func NewNodes(expected func() []string, log *slog.Logger) *Nodes {
	return &Nodes{expected: expected, log: log, conns: map[string][]*node{}, changed: make(chan struct{})}
}

// Serve takes over the connection of the request of a node's agent, until it ends. The caller has authenticated it.
func (n *Nodes) Serve(w http.ResponseWriter, r *http.Request, name string) {
	if r.Header.Get("Upgrade") != hubble.Protocol {
		http.Error(w, "an upgrade to "+hubble.Protocol+" is needed", http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "HTTP/1.1 is needed: "+err.Error(), http.StatusHTTPVersionNotSupported)
		return
	}
	defer conn.Close()
	if conn.SetDeadline(time.Time{}) != nil {
		return
	}
	const answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + hubble.Protocol + "\r\n\r\n"
	if _, err := conn.Write([]byte(answer)); err != nil {
		return
	}
	if err := n.serve(r.Context(), name, r.RemoteAddr, &read{conn, buffered.Reader}); err != nil {
		n.log.Debug("an agent's connection for flows ended", "node", name, "error", err)
	}
}

// read is a connection of which something may have been read already.
type read struct {
	net.Conn
	from *bufio.Reader
}

func (c *read) Read(p []byte) (int, error) { return c.from.Read(p) }

// serve asks an agent over a connection until it is closed, ctx ends, or the node should have no agent any more.
func (n *Nodes) serve(ctx context.Context, name, address string, conn net.Conn) error {
	c := &once{Conn: conn, gone: make(chan struct{})}
	defer func() { _ = c.Close() }() // the peer may have closed it
	client, err := grpc.NewClient("passthrough:///"+name,
		grpc.WithContextDialer(c.dial), grpc.WithTransportCredentials(insecure.NewCredentials()), // TLS is below
		grpc.WithIdleTimeout(0), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: alive, Timeout: alive, PermitWithoutStream: true}),
	)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // it is over anyway
	client.Connect()
	it := &node{name: name, address: address, client: observerpb.NewObserverClient(client), grpc: client, conn: c, gone: c.gone}
	if !n.add(it) {
		return errors.New("the flows API ends")
	}
	defer n.remove(it)
	look := time.NewTicker(recheck)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.gone:
			return nil
		case <-look.C:
			if !slices.Contains(n.expected(), name) {
				return errors.New("no agent of this node is known any more")
			}
		}
	}
}

// once is a connection that can be dialled once.
type once struct {
	net.Conn
	gone         chan struct{}
	dialled, end sync.Once
}

func (c *once) dial(context.Context, string) (out net.Conn, err error) {
	err = errors.New("the agent's connection has ended")
	c.dialled.Do(func() { out, err = c, nil })
	return out, err
}

// Close implements net.Conn.
func (c *once) Close() error {
	c.end.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// close ends all connections, and takes no further ones.
func (n *Nodes) close() {
	n.mu.Lock()
	n.closed = true
	all := slices.Concat(slices.Collect(maps.Values(n.conns))...)
	n.mu.Unlock()
	for _, it := range all {
		_ = it.conn.Close() // it is over anyway
	}
}

// add ends the oldest connection of a node that has too many. It reports whether connections are taken.
func (n *Nodes) add(it *node) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	all := append(n.conns[it.name], it)
	if len(all) > connsOfNode {
		go func(c net.Conn) { _ = c.Close() }(all[0].conn) // it may wait for the peer
		all = all[1:]
	}
	n.conns[it.name] = all
	n.tell()
	return true
}

func (n *Nodes) remove(it *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(n.conns[it.name]), func(o *node) bool { return o == it })
	if n.conns[it.name] = all; len(all) == 0 {
		delete(n.conns, it.name)
	}
	n.tell()
}

func (n *Nodes) tell() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// now returns the newest connection of each node, by name, and what is closed when they are others.
func (n *Nodes) now() ([]*node, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*node
	for _, name := range slices.Sorted(maps.Keys(n.conns)) {
		all := n.conns[name]
		out = append(out, all[len(all)-1])
	}
	return out, n.changed
}

// missing returns the names of the nodes that should be connected and are not, sorted.
func (n *Nodes) missing() []string {
	expected := n.expected()
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(slices.Values(slices.DeleteFunc(expected, func(name string) bool { return len(n.conns[name]) > 0 })))
}
