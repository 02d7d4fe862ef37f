package relay

import (
	"cmp"
	"container/heap"
	"errors"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
)

// head is the next message of a node.
type head struct {
	from *reader
	m    *observerpb.GetFlowsResponse
}

// heads is a heap of them, the oldest first.
type heads []head

func (h heads) Len() int { return len(h) }
func (h heads) Less(i, j int) bool {
	a, b := h[i].m.GetTime(), h[j].m.GetTime()
	return cmp.Or(cmp.Compare(a.GetSeconds(), b.GetSeconds()), cmp.Compare(a.GetNanos(), b.GetNanos())) < 0
}
func (h heads) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *heads) Push(x any)   { *h = append(*h, x.(head)) }
func (h *heads) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// history sends what nodes kept, by time. With follow it ends where what comes afterwards begins.
func (w *request) history(readers []*reader) error {
	var h heads
	for _, r := range readers {
		m, err := w.next(r)
		if err != nil {
			return err
		}
		if m != nil {
			h = append(h, head{r, m})
		}
	}
	heap.Init(&h)
	for len(h) > 0 {
		first := h[0]
		if err := w.pass(first.from.node, first.m); err != nil {
			return err
		}
		m, err := w.next(first.from)
		switch {
		case err != nil:
			return err
		case m == nil:
			heap.Pop(&h)
		default:
			h[0].m = m
			heap.Fix(&h, 0)
		}
	}
	return nil
}

// next waits for the next message of what a node kept; nil after the last. The client is told of a node that fails or that
// takes too long; the others go on.
func (w *request) next(r *reader) (*observerpb.GetFlowsResponse, error) {
	select {
	case <-w.ctx.Done():
		return nil, w.ctx.Err()
	case m, ok := <-r.out:
		switch {
		case ok && m.GetNodeStatus() != nil: // the end of what was kept
			return nil, w.state(relaypb.NodeState_NODE_CONNECTED, "", r.node.name)
		case ok:
			return m, nil
		case r.err == nil:
			return nil, nil
		case w.ctx.Err() != nil:
			return nil, w.ctx.Err()
		}
		r.reported = r.err.Error()
		if errors.Is(r.err, errNoAnswer) {
			return nil, w.state(relaypb.NodeState_NODE_UNAVAILABLE, r.reported, r.node.name)
		}
		return nil, w.state(relaypb.NodeState_NODE_ERROR, r.reported, r.node.name)
	}
}
