package relay

import (
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// mostAgain bounds the time between two attempts to ask a node, in units of the first. A node whose filters have computed for too
// long waits for all of it: 2 minutes, so that the 5 s of a new request (hubble.DefaultEffort) are less than the share that one
// which goes on may take.
const mostAgain = 24

// message is one of a node, or with a nil m the end of what it says.
type message struct {
	from *reader
	m    *observerpb.GetFlowsResponse
}

// following is a request while it follows.
type following struct {
	*request
	asked *observerpb.GetFlowsRequest // of nodes that are asked now: for what comes afterwards
	live  chan message
	nodes map[string]*followed // by name
	again *time.Timer          // fires when a node is to be asked again
}

// followed is a node of it.
type followed struct {
	reader  *reader
	ended   bool          // the end of what the reader reads was heard of
	missing string        // what the client was told keeps the node's flows away; "" while they come
	asked   time.Time     // when the node was asked last
	wait    time.Duration // before the last attempt, or the next
	next    time.Time     // when it is asked again over the same connection; zero for never
}

// follow passes on what nodes say until the client goes. It asks nodes that come, and again those that did not answer.
func (w *request) follow(readers []*reader, changed <-chan struct{}) error {
	f := &following{request: w, asked: proto.CloneOf(w.asked), live: make(chan message), nodes: map[string]*followed{}, again: time.NewTimer(time.Hour)}
	defer f.again.Stop()
	f.asked.Number, f.asked.Since = 0, nil
	for _, r := range readers {
		f.nodes[r.node.name] = &followed{reader: r, missing: r.reported, asked: time.Now()}
		go f.forward(r)
	}
	for {
		select {
		case <-f.ctx.Done():
			return f.ctx.Err()
		case <-changed:
			changed = f.join()
		case <-f.again.C:
			changed = f.join()
		case m := <-f.live:
			if err := f.heard(m); err != nil {
				return err
			}
			if m.m == nil {
				changed = f.join()
			}
		}
	}
}

// forward passes what a reader reads to live.
func (f *following) forward(r *reader) {
	for m := range r.out {
		select {
		case f.live <- message{r, m}:
		case <-f.ctx.Done():
			return
		}
	}
	select {
	case f.live <- message{from: r}:
	case <-f.ctx.Done():
	}
}

// join asks the nodes that are connected and not asked yet, those that are connected anew, and those whose time it is to be asked
// again. It returns what is closed when others are connected.
func (f *following) join() <-chan struct{} {
	nodes, changed := f.server.cfg.Nodes.now()
	now := time.Now()
	var next time.Time // of the nodes that wait
	for _, n := range nodes {
		it := f.nodes[n.name]
		switch {
		case it == nil:
			it = &followed{}
			f.nodes[n.name] = it
		case !it.ended:
			continue
		case it.reader.node != n:
			it.wait = 0
		case it.next.IsZero():
			continue
		case now.Before(it.next):
			if next.IsZero() || it.next.Before(next) {
				next = it.next
			}
			continue
		}
		it.reader, it.ended, it.asked = f.read(n, f.asked), false, now
		go f.forward(it.reader)
	}
	if f.again.Stop(); !next.IsZero() {
		f.again.Reset(next.Sub(now))
	}
	return changed
}

// retry sets when a node is asked again whose answer has ended, which it should not.
func (f *following) retry(it *followed) {
	first := f.server.cfg.Times.Again
	most := mostAgain * first
	if time.Since(it.asked) > most {
		it.wait = 0
	}
	switch status.Code(it.reader.err) {
	case codes.InvalidArgument, codes.Unimplemented: // an agent of another version
		it.next = time.Time{}
		return
	case codes.ResourceExhausted:
		it.wait = most
	default:
		it.wait = min(max(2*it.wait, first), most)
	}
	it.next = time.Now().Add(it.wait)
}

// heard takes a message of a node. The client is told once that a node is missing, and why, until it is there again.
func (f *following) heard(m message) error {
	name := m.from.node.name
	it := f.nodes[name]
	switch {
	case m.m == nil:
		it.ended = true
		f.retry(it)
		text := "the agent's connection has ended"
		if m.from.err != nil {
			text = m.from.err.Error()
		}
		if it.missing == text {
			return nil
		}
		it.missing = text
		return f.state(relaypb.NodeState_NODE_UNAVAILABLE, text, name)
	case m.m.GetNodeStatus() != nil:
		it.missing = ""
		return f.state(relaypb.NodeState_NODE_CONNECTED, "", name)
	}
	return f.pass(m.from.node, m.m)
}
