package tunnel

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// flowsKept bounds the flows that wait to be sent to the agent.
const flowsKept = 8192

// flows are those that were not sent to the agent yet.
type flows struct {
	mu   sync.Mutex
	kept []Flow
	lost uint64
}

func (f *flows) add(x Flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.kept) == flowsKept {
		f.lost++
		return
	}
	f.kept = append(f.kept, x)
}

// take empties the list.
func (f *flows) take() ([]Flow, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept, lost := f.kept, f.lost
	f.kept, f.lost = nil, 0
	return kept, lost
}

// drop counts n flows that could not be sent to the agent, and lost ones that were dropped before and of which it was not told.
func (f *flows) drop(n int, lost uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost += uint64(n) + lost
}

// noting makes the flows of one connection.
type noting struct {
	to   *flows
	flow Flow
}

func (p *pod) noting(began time.Time, peer model.Identity, from, to netip.AddrPort, outbound bool) *noting {
	w := p.spec.Load()
	return &noting{to: &p.node.flows, flow: Flow{
		Time: began, Outbound: outbound, Workload: w.Key, Source: from, Destination: to, Local: w.Identity, Peer: peer,
	}}
}

func (n *noting) open() {
	f := n.flow
	f.Open = true
	n.to.add(f)
}

// end notes the end. A reset by an application is no failure of the mesh.
func (n *noting) end(t traffic) {
	f := n.flow
	f.Duration = t.at.Sub(f.Time)
	if f.Outbound {
		f.Sent, f.Received = t.sent, t.received
	} else {
		f.Sent, f.Received = t.received, t.sent
	}
	var r reason
	switch {
	case t.failure == nil:
	case errors.As(t.failure, &r):
		f.Denied = r == reasonDenied
		if r != reasonReset {
			f.Failure = r.String()
		}
	case errors.Is(t.failure, errApplication):
	default:
		f.Failure = t.failure.Error()
	}
	n.to.add(f)
}
