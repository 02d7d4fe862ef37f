package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

const (
	linkRetry     = 100 * time.Millisecond
	linkRetryMost = 2 * time.Second
	flowsEvery    = time.Second
	// flowsAtOnce bounds a message.
	flowsAtOnce = 512
)

// linkPending bounds the messages that wait to be sent.
const linkPending = 1 << 16

// link is the connection to the agent. Without it the node goes on with what it knows.
type link struct {
	path string
	node *Node

	mu      sync.Mutex
	up      bool
	pending []tunnelMessage // to be sent while the link is up
	ready   chan struct{}   // something is pending
}

func newLink(path string, n *Node) *link {
	return &link{path: path, node: n, ready: make(chan struct{}, 1)}
}

// run keeps the link up until ctx ends.
func (l *link) run(ctx context.Context) {
	pause := linkRetry
	for ctx.Err() == nil {
		began := time.Now()
		err := l.once(ctx)
		if ctx.Err() != nil {
			return
		}
		l.node.log.Debug("no link to the agent", "error", err)
		if time.Since(began) > linkRetryMost {
			pause = linkRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			pause = min(2*pause, linkRetryMost)
		}
	}
}

func (l *link) once(ctx context.Context) error {
	c, err := (&net.Dialer{Timeout: linkRetryMost}).DialContext(ctx, "unix", l.path)
	if err != nil {
		return err
	}
	defer c.Close()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-ctx.Done():
			c.Close()
		case <-ended:
		}
	}()
	l.set(true)
	defer l.set(false)
	l.node.tellGatewayPort()
	for _, a := range l.node.wanted() {
		l.want(a)
	}
	go l.send(ended, c)
	go l.reportFlows(ended)
	return l.receive(json.NewDecoder(bufio.NewReader(c)))
}

// set notes whether the link is up. What waits to be sent when it ends is dropped; the flows in it are counted.
func (l *link) set(up bool) {
	l.mu.Lock()
	dropped := l.pending
	l.up, l.pending = up, nil
	l.mu.Unlock()
	l.drop(dropped)
}

// drop counts the flows of messages that do not get to the agent.
func (l *link) drop(messages []tunnelMessage) {
	for i := range messages {
		l.node.flows.drop(len(messages[i].Flows), messages[i].Lost)
	}
}

// send sends what is pending.
func (l *link) send(ended <-chan struct{}, c net.Conn) {
	defer c.Close()
	out := json.NewEncoder(c)
	for {
		select {
		case <-ended:
			return
		case <-l.ready:
		}
		l.mu.Lock()
		pending := l.pending
		l.pending = nil
		l.mu.Unlock()
		for i := range pending {
			_ = c.SetWriteDeadline(time.Now().Add(linkRetryMost))
			if out.Encode(&pending[i]) != nil {
				l.drop(pending[i:])
				return
			}
		}
	}
}

// receive reads what the agent sends. Workloads and certificates that it has not sent before Synced are gone.
func (l *link) receive(in *json.Decoder) error {
	workloads, ids := map[string]bool{}, map[model.Identity]bool{}
	synced := false
	for {
		m, err := l.decode(in)
		if err != nil {
			return err
		}
		switch {
		case m.Synced:
			synced = true
			l.node.do(func() { l.node.keep(workloads, ids) })
		case synced:
		case m.Workload != nil:
			workloads[m.Workload.Key] = true
		case m.SVID != nil:
			ids[m.SVID.Identity] = true
		}
		l.node.do(func() { l.node.hear(m) })
	}
}

// decode reads a message. A workload in which there is something that this version does not know may be one whose policy
// allows less than is understood, so nobody is let in.
func (l *link) decode(in *json.Decoder) (*agentMessage, error) {
	var line json.RawMessage
	if err := in.Decode(&line); err != nil {
		return nil, err
	}
	m := &agentMessage{}
	if err := json.Unmarshal(line, m); err != nil {
		return nil, err
	}
	if m.Workload == nil {
		return m, nil
	}
	strict := json.NewDecoder(bytes.NewReader(line))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&agentMessage{}); err != nil {
		l.node.log.Error("a pod of a newer agent is not understood, so nobody may connect to it", "pod", m.Workload.Key, "error", err)
		m.Workload.Policy = &model.Policy{}
	}
	return m, nil
}

// enqueue has a message sent. It does not wait. It reports whether the message was taken: not without a link, nor if too
// many are pending.
func (l *link) enqueue(m tunnelMessage) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up || len(l.pending) == linkPending {
		return false
	}
	l.pending = append(l.pending, m)
	select {
	case l.ready <- struct{}{}:
	default:
	}
	return true
}

// want asks for a peer. Without a link it is asked for when there is one.
func (l *link) want(a netip.Addr) { l.enqueue(tunnelMessage{Want: a}) }

func (l *link) forget(a netip.Addr) { l.enqueue(tunnelMessage{Forget: a}) }

func (l *link) applied(w *Workload, err error) {
	m := &applied{Key: w.Key, Revision: w.Revision}
	if err != nil {
		m.Error, m.PortTaken = err.Error(), errors.Is(err, errPortTaken)
		l.node.log.Warn("connections of a pod cannot be taken", "pod", w.Key, "error", err)
	}
	l.enqueue(tunnelMessage{Applied: m})
}

// reportFlows sends the flows that were seen, every flowsEvery.
func (l *link) reportFlows(ended <-chan struct{}) {
	tick := time.NewTicker(flowsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		kept, lost := l.node.flows.take()
		for len(kept) > 0 || lost > 0 {
			m := tunnelMessage{Flows: kept[:min(len(kept), flowsAtOnce)]}
			if kept = kept[len(m.Flows):]; len(kept) == 0 {
				m.Lost, lost = lost, 0 // the newest are dropped, so the gap is behind those that were kept
			}
			if !l.enqueue(m) {
				l.node.flows.drop(len(m.Flows)+len(kept), m.Lost+lost)
				return
			}
		}
	}
}
