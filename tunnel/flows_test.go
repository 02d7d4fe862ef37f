package tunnel

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// flowsTest is a Node whose agent comes and goes.
type flowsTest struct {
	t    *testing.T
	node *Node
	path string

	mu          sync.Mutex
	flows, lost uint64
	// gapAt is how many flows had come when the first loss was reported.
	gapAt uint64
}

func newFlowsTest(t *testing.T) *flowsTest {
	f := &flowsTest{t: t, path: filepath.Join(t.TempDir(), "s")}
	f.node = New(f.path, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.node.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

// agent serves until it is told to end.
func (f *flowsTest) agent() (st *state.State, end func()) {
	f.t.Helper()
	l, err := net.Listen("unix", f.path)
	if err != nil {
		f.t.Fatal(err)
	}
	st = state.New(state.NewDB())
	server := NewServer(st, Config{TrustDomain: "a", Log: slog.New(slog.DiscardHandler), Flow: f.flow, Lost: f.loss})
	st.MarkSynced()
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	})
	f.t.Cleanup(end)
	return st, end
}

func (f *flowsTest) flow(*Flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flows++
}

func (f *flowsTest) loss(n uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost == 0 {
		f.gapAt = f.flows
	}
	f.lost += n
}

// await waits until flows came and others were reported as lost, and until the agent's row counts those.
func (f *flowsTest) await(st *state.State, flows, lost, counted uint64) {
	f.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		f.mu.Lock()
		haveFlows, haveLost := f.flows, f.lost
		f.mu.Unlock()
		row, _ := st.Lost.Get(st.Snapshot(), model.LostTunnel)
		if haveFlows == flows && haveLost == lost && row != nil && row.Count == counted {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%d flows came, want %d; %d were reported as lost, want %d; the row is %+v, want %d", haveFlows, flows, haveLost, lost, row, counted)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestFlowsAreLostWithoutAnAgent: of the flows of a time without an agent some are kept, and the next agent counts the others. The
// gap is behind those that were kept.
func TestFlowsAreLostWithoutAnAgent(t *testing.T) {
	const more = 300
	f := newFlowsTest(t)
	for range flowsKept + more {
		f.node.flows.add(Flow{})
	}
	st, end := f.agent()
	f.await(st, flowsKept, more, more)
	if f.gapAt != flowsKept {
		t.Errorf("the gap is marked after %d flows, want %d", f.gapAt, flowsKept)
	}
	f.node.flows.add(Flow{})
	f.await(st, flowsKept+1, more, more)
	end()

	for range flowsKept + 2*more {
		f.node.flows.add(Flow{})
	}
	st, _ = f.agent()
	f.await(st, 2*flowsKept+1, 3*more, 2*more)
}

// TestPendingFlowsAreCounted: what waits to be sent when the link ends is reported as lost by the next one.
func TestPendingFlowsAreCounted(t *testing.T) {
	n := New("none", slog.New(slog.DiscardHandler))
	n.link.set(true)
	if !n.link.enqueue(tunnelMessage{Flows: make([]Flow, 5), Lost: 3}) {
		t.Fatal("the message is not taken")
	}
	n.link.set(false)
	if kept, lost := n.flows.take(); len(kept) != 0 || lost != 8 {
		t.Errorf("%d flows are kept and %d lost, want 0 and 8", len(kept), lost)
	}
}
