package relay

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// text says what was answered: node and path or verdict of flows, lost ones, states of nodes.
func text(all []*observerpb.GetFlowsResponse) string {
	var out []string
	for _, m := range all {
		switch of := m.ResponseTypes.(type) {
		case *observerpb.GetFlowsResponse_Flow:
			what := of.Flow.GetVerdict().String()
			if h := of.Flow.GetL7().GetHttp(); h != nil {
				what = strings.TrimPrefix(h.GetUrl(), "http://web")
			}
			out = append(out, m.NodeName+what)
		case *observerpb.GetFlowsResponse_LostEvents:
			out = append(out, fmt.Sprintf("%s-%d", m.NodeName, of.LostEvents.NumEventsLost))
		case *observerpb.GetFlowsResponse_NodeStatus:
			out = append(out, fmt.Sprintf("%v%v", of.NodeStatus.NodeNames, of.NodeStatus.StateChange))
		}
	}
	return strings.Join(out, " ")
}

// two is a cluster of the nodes a and b with flows.
func two(t *testing.T, times Times) (c *cluster, a, b *agent) {
	c = newCluster(t, times)
	a, b = c.agent("a"), c.agent("b")
	a.flows.Add(flow(1, "store/web-1", 200))
	b.flows.Add(flow(2, "store/web-1", 404))
	b.flows.AddLost(3)
	b.flows.Add(within(3))
	a.flows.Add(flow(4, "store/web-1", 503))
	a.flows.Add(refused(5))
	return c, a, b
}

func TestFlowsOfAllNodes(t *testing.T) {
	c, _, _ := two(t, Times{})
	at := func(second int) *timestamppb.Timestamp {
		return timestamppb.New(begin.Add(time.Duration(second) * time.Second))
	}
	for _, tc := range []struct {
		name, token string
		request     *observerpb.GetFlowsRequest
		want        string
	}{
		{"all", "admin", &observerpb.GetFlowsRequest{}, "a/1 b/2 b-3 b/3 a/4 aDROPPED"},
		{"a huge number", "admin", &observerpb.GetFlowsRequest{Number: 1<<64 - 1}, "a/1 b/2 b-3 b/3 a/4 aDROPPED"},
		{"the last of each node", "admin", &observerpb.GetFlowsRequest{Number: 1}, "b-3 b/3 aDROPPED"},
		{"the first of each node", "admin", &observerpb.GetFlowsRequest{Number: 1, First: true}, "a/1 b/2"},
		{"since", "admin", &observerpb.GetFlowsRequest{Since: at(3)}, "b-3 b/3 a/4 aDROPPED"},
		{"until", "admin", &observerpb.GetFlowsRequest{Until: at(2)}, "a/1 b/2 b-3"},
		{"whose namespace may be seen", "shop", &observerpb.GetFlowsRequest{}, "a/1 b/2 a/4 aDROPPED b-3"},
		{"a mask hides nothing from the check", "shop", &observerpb.GetFlowsRequest{FieldMask: &fieldmaskpb.FieldMask{Paths: []string{"verdict"}}},
			"aFORWARDED bFORWARDED aFORWARDED aDROPPED b-3"},
		{"whitelist", "admin", &observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{{HttpStatusCode: []string{"4+", "503"}}, {Verdict: []flowpb.Verdict{flowpb.Verdict_DROPPED}}}},
			"b/2 a/4 aDROPPED b-3"},
		{"blacklist", "admin", &observerpb.GetFlowsRequest{Blacklist: []*flowpb.FlowFilter{{NodeName: []string{"a"}}}}, "b/2 b-3 b/3"},
	} {
		got, err := c.get(tc.token, tc.request)
		if err != nil || text(got) != tc.want {
			t.Errorf("%s: %s, error %v; want %s", tc.name, text(got), err, tc.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	c, _, _ := two(t, Times{})
	extension, err := anypb.New(&timestamppb.Timestamp{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, token string
		request     *observerpb.GetFlowsRequest
		want        codes.Code
		says        string
	}{
		{"unknown token", "x", &observerpb.GetFlowsRequest{}, codes.Unauthenticated, "token"},
		{"empty token", "", &observerpb.GetFlowsRequest{}, codes.Unauthenticated, "no token"},
		{"long token", strings.Repeat("x", maxToken+1), &observerpb.GetFlowsRequest{}, codes.Unauthenticated, "no token"},
		{"no right", "nobody", &observerpb.GetFlowsRequest{}, codes.PermissionDenied, "user-nobody may list flows.weft.io in no namespace"},
		{"bad filter", "admin", &observerpb.GetFlowsRequest{Blacklist: []*flowpb.FlowFilter{{HttpPath: []string{"("}}}}, codes.InvalidArgument, "blacklist: http_path: "},
		{"bad network", "admin", &observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{{SourceIp: []string{"10.0.0.0/99"}}}}, codes.InvalidArgument, "source_ip: "},
		{"unknown filter", "admin", &observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{{SourceFqdn: []string{"a"}}}}, codes.InvalidArgument, "source_fqdn: "},
		{"thousands of filters", "admin", &observerpb.GetFlowsRequest{Whitelist: make([]*flowpb.FlowFilter, 5000)}, codes.InvalidArgument, "whitelist: 5000 filters"},
		{"a long message", "admin", &observerpb.GetFlowsRequest{Whitelist: []*flowpb.FlowFilter{{Uuid: []string{strings.Repeat("x", maxRequest)}}}}, codes.ResourceExhausted, ""},
		{"first and follow", "admin", &observerpb.GetFlowsRequest{First: true, Follow: true}, codes.InvalidArgument, "first"},
		{"until and follow", "admin", &observerpb.GetFlowsRequest{Until: timestamppb.Now(), Follow: true}, codes.InvalidArgument, "until"},
		{"bad time", "admin", &observerpb.GetFlowsRequest{Since: &timestamppb.Timestamp{Nanos: -1}}, codes.InvalidArgument, "since"},
		{"bad mask", "admin", &observerpb.GetFlowsRequest{FieldMask: &fieldmaskpb.FieldMask{Paths: []string{"x"}}}, codes.InvalidArgument, "field_mask"},
		{"another's scope", "shop", &observerpb.GetFlowsRequest{Extensions: extension}, codes.InvalidArgument, "extensions"},
	} {
		for i, f := range tc.request.Whitelist {
			if f == nil {
				tc.request.Whitelist[i] = &flowpb.FlowFilter{}
			}
		}
		got, err := c.get(tc.token, tc.request)
		if status.Code(err) != tc.want || !strings.Contains(status.Convert(err).Message(), tc.says) || len(got) > 0 {
			t.Errorf("%s: %.300v, want %s with %q; got %s", tc.name, err, tc.want, tc.says, text(got))
		}
	}
	if _, err := observerpb.NewObserverClient(c.conn()).GetNodes(t.Context(), &observerpb.GetNodesRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: %v", err)
	}
	basic := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic YW55Ym9keTphZG1pbg==") // anybody:admin
	if _, err := observerpb.NewObserverClient(c.conn()).GetNodes(basic, &observerpb.GetNodesRequest{}); err != nil {
		t.Errorf("basic authentication: %v", err)
	}
	events, err := observerpb.NewObserverClient(c.conn()).GetAgentEvents(c.as("admin"), &observerpb.GetAgentEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Recv(); status.Code(err) != codes.Unimplemented {
		t.Errorf("events that there are none of: %v", err)
	}
}

func TestStatus(t *testing.T) {
	c, _, b := two(t, Times{})
	client := observerpb.NewObserverClient(c.conn())
	b.stop()
	c.await("b is gone", func() bool { return len(c.server.cfg.Nodes.missing()) == 1 })
	st, err := client.ServerStatus(c.as("shop"), &observerpb.ServerStatusRequest{})
	if err != nil || st.SeenFlows != 3 || st.MaxFlows != 1000 || st.NumConnectedNodes.GetValue() != 1 || fmt.Sprint(st.UnavailableNodes) != "[b]" {
		t.Errorf("status %v, error %v", st, err)
	}
	nodes, err := client.GetNodes(c.as("shop"), &observerpb.GetNodesRequest{})
	if err != nil || len(nodes.Nodes) != 2 || nodes.Nodes[0].Version != "v1.2.3" || nodes.Nodes[1].State != relaypb.NodeState_NODE_UNAVAILABLE {
		t.Errorf("nodes %v, error %v", nodes, err)
	}
	for token, want := range map[string]string{"admin": "shop store", "shop": "shop"} {
		got, err := client.GetNamespaces(c.as(token), &observerpb.GetNamespacesRequest{})
		var names []string
		for _, ns := range got.GetNamespaces() {
			names = append(names, ns.Namespace)
		}
		if err != nil || strings.Join(names, " ") != want {
			t.Errorf("namespaces of %s: %v, error %v", token, names, err)
		}
	}
	peers, err := peerpb.NewPeerClient(c.conn()).Notify(c.as("admin"), &peerpb.NotifyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := peers.Recv(); err != nil || first.Name != "a" || first.Type != peerpb.ChangeNotificationType_PEER_ADDED {
		t.Errorf("peer %v, error %v", first, err)
	}
	got, err := c.get("admin", &observerpb.GetFlowsRequest{Number: 1})
	if want := "[b]NODE_UNAVAILABLE aDROPPED"; err != nil || text(got) != want {
		t.Errorf("%s, error %v; want %s", text(got), err, want)
	}
}

// follow begins to follow, and returns what waits for the next messages.
func (c *cluster) follow(token string, r *observerpb.GetFlowsRequest) func(n int) string {
	c.t.Helper()
	r.Follow = true
	ctx, cancel := context.WithCancel(c.as(token))
	c.t.Cleanup(cancel)
	in, err := observerpb.NewObserverClient(c.conn()).GetFlows(ctx, r)
	if err != nil {
		c.t.Fatal(err)
	}
	return func(n int) string {
		c.t.Helper()
		var all []*observerpb.GetFlowsResponse
		for range n {
			m, err := in.Recv()
			if err != nil {
				return text(all) + " " + status.Code(err).String()
			}
			all = append(all, m)
		}
		return text(all)
	}
}

func TestFollow(t *testing.T) {
	c, a, b := two(t, Times{})
	next := c.follow("shop", &observerpb.GetFlowsRequest{Number: 1})
	expect := func(n int, want string) {
		t.Helper()
		if got := next(n); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	expect(5, "b/2 aDROPPED [a]NODE_CONNECTED b-3 [b]NODE_CONNECTED")
	b.flows.Add(within(6))
	b.flows.Add(flow(7, "store/web-1", 200))
	expect(1, "b/7")
	a.flows.Add(flow(8, "store/web-1", 200))
	expect(1, "a/8")
	b.flows.AddLost(2)
	expect(1, "b-2")
	b.stop()
	expect(1, "[b]NODE_UNAVAILABLE")
	b = c.agent("b")
	expect(1, "[b]NODE_CONNECTED")
	b.flows.Add(flow(9, "store/web-1", 200))
	expect(1, "b/9")
	other := c.agent("c")
	expect(1, "[c]NODE_CONNECTED")
	other.flows.Add(flow(10, "store/web-1", 200))
	expect(1, "c/10")
}

// TestRightsThatChange end what is followed.
func TestRightsThatChange(t *testing.T) {
	times := DefaultTimes
	times.Review = 20 * time.Millisecond
	c, _, _ := two(t, times)
	for want, now := range map[string][]string{"PermissionDenied": {}, "Aborted": {"bank", "shop"}} {
		c.rights.set("shop", []string{"shop"})
		next := c.follow("shop", &observerpb.GetFlowsRequest{})
		next(2)
		c.rights.set("shop", now)
		if got := next(1); got != " "+want {
			t.Errorf("%q, want %s", got, want)
		}
	}
}

// TestPeersEndWithTheRight: who may see nothing any more does not go on hearing of nodes.
func TestPeersEndWithTheRight(t *testing.T) {
	times := DefaultTimes
	times.Review = 20 * time.Millisecond
	c, _, _ := two(t, times)
	peers, err := peerpb.NewPeerClient(c.conn()).Notify(c.as("shop"), &peerpb.NotifyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := peers.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	c.rights.set("shop", []string{})
	if m, err := peers.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v, error %v", m, err)
	}
}
