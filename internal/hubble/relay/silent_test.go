package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
)

// stalledLink is a connection that carries nothing from an agent until it is released.
type stalledLink struct {
	net.Conn
	released <-chan struct{}
	closed   chan struct{}
	once     sync.Once
}

func (l *stalledLink) Write(p []byte) (int, error) {
	select {
	case <-l.released:
		return l.Conn.Write(p)
	case <-l.closed:
		return 0, net.ErrClosed
	}
}

// Close implements net.Conn.
func (l *stalledLink) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Conn.Close()
}

// silentAgents makes agents that start later silent, until the function that it returns is called.
func (c *cluster) silentAgents() (release func()) {
	released := make(chan struct{})
	c.link = func(conn net.Conn) net.Conn {
		return &stalledLink{Conn: conn, released: released, closed: make(chan struct{})}
	}
	return func() {
		c.link = nil
		close(released)
	}
}

// TestSilentNodesShareOneDeadline: an answer does not wait for one silent node after the other, and names all of them. One after
// the other they would take longer than the request has.
func TestSilentNodesShareOneDeadline(t *testing.T) {
	const silent = 100
	times := DefaultTimes
	times.Node = 250 * time.Millisecond
	c := newCluster(t, times)
	c.silentAgents()
	for i := range silent {
		c.agent(fmt.Sprintf("n%02d", i))
	}
	ctx, cancel := context.WithTimeout(c.as("admin"), 20*time.Second)
	defer cancel()
	in, err := observerpb.NewObserverClient(c.conn()).GetFlows(ctx, &observerpb.GetFlowsRequest{Number: 1})
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %d of %d silent nodes were named: %v", len(named), silent, err)
		}
		st := m.GetNodeStatus()
		if st.GetStateChange() != relaypb.NodeState_NODE_UNAVAILABLE || st.GetMessage() != "no answer within 250ms" {
			t.Errorf("unexpected %v", m)
		}
		for _, name := range st.GetNodeNames() {
			named[name] = true
		}
	}
	if len(named) != silent {
		t.Errorf("%d nodes are named, want %d", len(named), silent)
	}
}

// TestLateNodeJoins: a node that was silent when a client began to follow is asked again, and the client is told once that it is
// missing and once that it is there.
func TestLateNodeJoins(t *testing.T) {
	times := DefaultTimes
	times.Node, times.Again = 300*time.Millisecond, 20*time.Millisecond
	c := newCluster(t, times)
	release := c.silentAgents()
	late := c.agent("late")
	next := c.follow("admin", &observerpb.GetFlowsRequest{Number: 5})
	if got, want := next(1), "[late]NODE_UNAVAILABLE"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	time.Sleep(3 * times.Node) // it is asked again in vain, of which the client hears nothing
	release()
	if got, want := next(1), "[late]NODE_CONNECTED"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	late.flows.Add(flow(9, "store/web-1", 200))
	if got, want := next(1), "late/9"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestNodeThatEndsAnAnswerIsAskedAgain: as a node does that answers too many requests already, or whose filters compute for long.
func TestNodeThatEndsAnAnswerIsAskedAgain(t *testing.T) {
	times := DefaultTimes
	times.Again = time.Millisecond
	c := newCluster(t, times)
	c.effort = 20 * time.Millisecond
	a := c.agent("a")
	next := c.follow("admin", &observerpb.GetFlowsRequest{Whitelist: costlyFilter()})
	expect := func(want string) {
		t.Helper()
		if got := next(1); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	expect("[a]NODE_CONNECTED")
	a.addCostly()
	expect("[a]NODE_UNAVAILABLE")
	expect("[a]NODE_CONNECTED")
}
