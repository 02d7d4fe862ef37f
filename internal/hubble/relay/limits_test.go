package relay

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// running returns how many requests for flows are answered.
func (c *cluster) running() int {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	return c.server.all
}

// until waits for what comes without a signal.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain: ", what)
		}
	}
}

// TestClientThatNeverReads holds up neither a node nor another client, and its request ends.
func TestClientThatNeverReads(t *testing.T) {
	times := DefaultTimes
	times.Client = 100 * time.Millisecond
	c := newCluster(t, times)
	a := c.agent("a")
	if _, err := observerpb.NewObserverClient(c.conn()).GetFlows(c.as("admin"), &observerpb.GetFlowsRequest{Follow: true}); err != nil {
		t.Fatal(err)
	}
	until(t, "the request is there", func() bool { return c.running() == 1 })
	added := 0
	until(t, "the request has ended", func() bool {
		for range 200 {
			a.flows.Add(flow(added, "store/web-1", 200))
			added++
		}
		return c.running() == 0
	})
	if got, err := c.get("admin", &observerpb.GetFlowsRequest{Number: 5}); err != nil || len(got) != 5 {
		t.Errorf("another client gets %s, error %v", text(got), err)
	}
}

// TestSlowClientHearsOfLosses: what it got and what it was told of make up all.
func TestSlowClientHearsOfLosses(t *testing.T) {
	c := newCluster(t, Times{})
	a := c.agent("a")
	in, err := observerpb.NewObserverClient(c.conn()).GetFlows(c.as("admin"), &observerpb.GetFlowsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Recv(); err != nil { // the node is connected
		t.Fatal(err)
	}
	const all = 20000 // of which the store keeps 1000, and the windows hold some hundred
	for i := range all {
		a.flows.Add(flow(i, "store/web-1", 200))
	}
	var got, lost uint64
	for got+lost < all {
		m, err := in.Recv()
		if err != nil {
			t.Fatal(err)
		}
		lost += m.GetLostEvents().GetNumEventsLost()
		if m.GetFlow() != nil {
			got++
		}
	}
	if lost == 0 || got+lost != all {
		t.Errorf("got %d, told of %d lost, of %d", got, lost, all)
	}
}

// TestManyClients: the requests of a caller, and of all, are bounded.
func TestManyClients(t *testing.T) {
	c := newCluster(t, Times{})
	c.agent("a")
	begin := func(token string) error {
		in, err := observerpb.NewObserverClient(c.conn()).GetFlows(c.as(token), &observerpb.GetFlowsRequest{Follow: true})
		if err != nil {
			return err
		}
		_, err = in.Recv()
		return err
	}
	for user := range maxRequests / maxRequestsOfOne {
		token := string(rune('A' + user))
		c.rights.set(token, nil)
		for range maxRequestsOfOne {
			if err := begin(token); err != nil {
				t.Fatal(err)
			}
		}
		if err := begin(token); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("one more of a caller: %v", err)
		}
	}
	if err := begin("admin"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more of another caller: %v", err)
	}
	if _, err := observerpb.NewObserverClient(c.conn()).ServerStatus(c.as("admin"), &observerpb.ServerStatusRequest{}); err != nil {
		t.Errorf("a question with one answer: %v", err)
	}
}

// TestConnectionsOfOneAddress: a client that takes all connections, and keeps them by HTTP/2's pings, keeps nobody out.
func TestConnectionsOfOneAddress(t *testing.T) {
	c := newCluster(t, Times{})
	c.agent("a").flows.Add(flow(0, "store/web-1", 200))
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: 10 * time.Second}
	config := &tls.Config{RootCAs: c.roots, ServerName: "example.com", NextProtos: []string{"h2"}}
	take := func() error {
		conn, err := tls.DialWithDialer(&from, "tcp", c.address, config)
		if err != nil {
			return err
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			return err
		}
		f := http2.NewFramer(conn, conn)
		if err := f.WriteSettings(); err != nil {
			return err
		}
		if err := f.WritePing(false, [8]byte{}); err != nil {
			return err
		}
		_, err = f.ReadFrame()
		return err
	}
	for range maxConns {
		if err := take(); err != nil {
			t.Fatal(err)
		}
	}
	if take() == nil {
		t.Error("a client has more connections than there are")
	}
	for range 3 {
		if got, err := c.get("admin", &observerpb.GetFlowsRequest{Number: 1}); err != nil || len(got) == 0 {
			t.Errorf("another client gets %s, error %v", text(got), err)
		}
		_ = take()
	}
}

// TestRightsThatChangeBeforeTheEnd: a client that reads slowly does not go on for as long as it likes with what was kept, after its
// token is no longer good.
func TestRightsThatChangeBeforeTheEnd(t *testing.T) {
	times := DefaultTimes
	times.Review = 20 * time.Millisecond
	for _, follow := range []bool{false, true} {
		c := newCluster(t, times)
		a := c.agent("a")
		const all = 1000 // the store keeps as many, and the windows hold some hundred
		for i := range all {
			a.flows.Add(flow(i, "store/web-1", 200))
		}
		c.rights.set("late", []string{"shop", "store"})
		in, err := observerpb.NewObserverClient(c.conn()).GetFlows(c.as("late"), &observerpb.GetFlowsRequest{Number: all, Follow: follow})
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for ; got == 0 && err == nil; got++ {
			_, err = in.Recv()
		}
		c.rights.set("late", []string{})
		time.Sleep(3 * times.Review)
		for ; err == nil; got++ {
			_, err = in.Recv()
		}
		if status.Code(err) != codes.PermissionDenied || got >= all {
			t.Errorf("follow %t: the request ends after %d messages with %v", follow, got, err)
		}
	}
}

// costlyFilter is within its bounds, and computes for long.
func costlyFilter() []*flowpb.FlowFilter {
	f := &flowpb.FlowFilter{}
	for i := range 32 {
		f.HttpPath = append(f.HttpPath, fmt.Sprintf("(?:a?){45}b%d$", i))
	}
	return []*flowpb.FlowFilter{f}
}

// addCostly adds flows for it.
func (a *agent) addCostly() {
	for i := range 1000 {
		f := flow(i, "store/web-1", 200)
		f.HTTP.Path = "/" + strings.Repeat("a", 1000)
		a.flows.Add(f)
	}
}

// TestFiltersThatComputeForLong end, at a node that searches what it has kept and at one that is followed: expressions that are
// within their bounds took a processor of each node for half a minute for a thousand flows with long paths, also when nobody
// waited for it any more.
func TestFiltersThatComputeForLong(t *testing.T) {
	c := newCluster(t, Times{})
	c.effort = 20 * time.Millisecond
	a := c.agent("a")
	a.addCostly()
	ended := func(m *observerpb.GetFlowsResponse) bool {
		return strings.Contains(m.GetNodeStatus().GetMessage(), "have computed for")
	}
	got, err := c.get("admin", &observerpb.GetFlowsRequest{Whitelist: costlyFilter()})
	if err != nil || !slices.ContainsFunc(got, ended) {
		t.Errorf("a costly search: %s, error %v", text(got), err)
	}
	in, err := observerpb.NewObserverClient(c.conn()).GetFlows(c.as("admin"), &observerpb.GetFlowsRequest{Follow: true, Whitelist: costlyFilter()})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := in.Recv(); err != nil || m.GetNodeStatus().GetStateChange() != relaypb.NodeState_NODE_CONNECTED {
		t.Fatalf("the node is followed: %v, error %v", m, err)
	}
	a.addCostly()
	for done := false; !done; {
		m, err := in.Recv()
		if err != nil {
			t.Fatal(err)
		}
		done = ended(m)
	}
	if got, err := c.get("admin", &observerpb.GetFlowsRequest{Number: 5, Whitelist: []*flowpb.FlowFilter{{HttpStatusCode: []string{"200"}}}}); err != nil || len(got) != 5 {
		t.Errorf("another request: %s, error %v", text(got), err)
	}
}
