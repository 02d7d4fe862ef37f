package relay

import (
	"context"
	"sync"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"

	"github.com/weft-mesh/weft/internal/hubble"
	"github.com/weft-mesh/weft/internal/observe"
)

// watchRetry lies between attempts to ask a node that answered with an error while it stayed connected.
const watchRetry = 10 * time.Second

// Refused calls each for the refused flows that nodes report from the call on, with the name of the node, until ctx ends.
// Nodes that connect later are asked too. Flows that a node has lost are not heard of. each is called by several goroutines
// at once; while it blocks, its node skips flows and nothing else waits.
func (n *Nodes) Refused(ctx context.Context, each func(node string, f *observe.Flow)) {
	dropped := &flowpb.FlowFilter{Verdict: []flowpb.Verdict{flowpb.Verdict_DROPPED}}
	asked := &observerpb.GetFlowsRequest{Follow: true, Whitelist: []*flowpb.FlowFilter{dropped}}
	var wg sync.WaitGroup
	defer wg.Wait()
	running := map[*node]bool{}
	for {
		nodes, changed := n.now()
		current := map[*node]bool{}
		for _, it := range nodes {
			current[it] = true
			if !running[it] {
				wg.Go(func() { it.watch(ctx, asked, each) })
			}
		}
		running = current
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// watch asks a node until it is gone or ctx ends.
func (it *node) watch(ctx context.Context, asked *observerpb.GetFlowsRequest, each func(string, *observe.Flow)) {
	for {
		it.watchOnce(ctx, asked, each)
		select {
		case <-ctx.Done():
			return
		case <-it.gone:
			return
		case <-time.After(watchRetry):
		}
	}
}

func (it *node) watchOnce(ctx context.Context, asked *observerpb.GetFlowsRequest, each func(string, *observe.Flow)) {
	in, err := it.client.GetFlows(ctx, asked)
	if err != nil {
		return
	}
	for {
		m, err := in.Recv()
		if err != nil {
			return
		}
		if f := m.GetFlow(); f != nil {
			each(it.name, hubble.FromFlow(f))
		}
	}
}
