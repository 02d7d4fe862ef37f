package relay

import (
	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/protobuf/proto"
)

// message is one of a node, or with a nil m the end of what it says.
type message struct {
	from *reader
	m    *observerpb.GetFlowsResponse
}

// follow passes on what nodes say until the client goes, and asks nodes that come.
func (w *request) follow(readers []*reader, changed <-chan struct{}) error {
	live := make(chan message)
	running := map[string]*reader{}
	for _, r := range readers {
		running[r.node.name] = r
		go w.forward(r, live)
	}
	afterwards := proto.CloneOf(w.asked)
	afterwards.Number, afterwards.Since = 0, nil
	for {
		select {
		case <-w.ctx.Done():
			return w.ctx.Err()
		case <-changed:
			changed = w.join(running, afterwards, live)
		case m := <-live:
			if err := w.heard(m, running); err != nil {
				return err
			}
			if m.m == nil {
				changed = w.join(running, afterwards, live)
			}
		}
	}
}

// forward passes what a reader reads to live.
func (w *request) forward(r *reader, live chan<- message) {
	for m := range r.out {
		select {
		case live <- message{r, m}:
		case <-w.ctx.Done():
			return
		}
	}
	select {
	case live <- message{from: r}:
	case <-w.ctx.Done():
	}
}

// join asks the nodes that are connected and not asked yet. A node that failed is asked again when it is connected anew.
func (w *request) join(running map[string]*reader, asked *observerpb.GetFlowsRequest, live chan<- message) <-chan struct{} {
	nodes, changed := w.server.cfg.Nodes.now()
	for _, n := range nodes {
		if r := running[n.name]; r == nil || r.node != n && ended(r) {
			running[n.name] = w.read(n, asked)
			go w.forward(running[n.name], live)
		}
	}
	return changed
}

// ended reports whether a reader's end was heard of.
func ended(r *reader) bool { return r.end == nil }

// heard takes a message of a node.
func (w *request) heard(m message, running map[string]*reader) error {
	name := m.from.node.name
	switch {
	case m.m == nil:
		m.from.end = nil
		if running[name] != m.from {
			return nil
		}
		text := "the agent's connection has ended"
		if m.from.err != nil {
			text = m.from.err.Error()
		}
		return w.state(relaypb.NodeState_NODE_UNAVAILABLE, text, name)
	case m.m.GetNodeStatus() != nil:
		return w.state(relaypb.NodeState_NODE_CONNECTED, "", name)
	}
	return w.pass(m.from.node, m.m)
}
