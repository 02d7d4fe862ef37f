package relay

import (
	"context"
	"slices"
	"sync"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/hubble"
)

// asked is a node's answer, or nil if it did not answer in time.
type asked[T any] struct {
	node   *node
	answer *T
}

// ask asks all nodes at once.
func ask[T any](ctx context.Context, s *Server, do func(context.Context, *node) (*T, error)) []asked[T] {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Times.Node)
	defer cancel()
	nodes, _ := s.cfg.Nodes.now()
	out := make([]asked[T], len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		out[i].node = n
		all.Go(func() {
			if a, err := do(ctx, n); err == nil {
				out[i].answer = a
			}
		})
	}
	all.Wait()
	return out
}

func statuses(ctx context.Context, s *Server) []asked[observerpb.ServerStatusResponse] {
	return ask(ctx, s, func(ctx context.Context, n *node) (*observerpb.ServerStatusResponse, error) {
		return n.client.ServerStatus(ctx, &observerpb.ServerStatusRequest{})
	})
}

// ServerStatus implements observerpb.ObserverServer: the sums of all nodes.
func (s *Server) ServerStatus(ctx context.Context, _ *observerpb.ServerStatusRequest) (*observerpb.ServerStatusResponse, error) {
	out := &observerpb.ServerStatusResponse{Version: s.cfg.Version, UnavailableNodes: s.cfg.Nodes.missing()}
	connected := uint32(0)
	for _, n := range statuses(ctx, s) {
		if n.answer == nil {
			out.UnavailableNodes = append(out.UnavailableNodes, n.node.name)
			continue
		}
		connected++
		out.NumFlows += n.answer.GetNumFlows()
		out.MaxFlows += n.answer.GetMaxFlows()
		out.SeenFlows += n.answer.GetSeenFlows()
		out.FlowsRate += n.answer.GetFlowsRate()
		out.UptimeNs = max(out.UptimeNs, n.answer.GetUptimeNs())
	}
	slices.Sort(out.UnavailableNodes)
	out.NumConnectedNodes = wrapperspb.UInt32(connected)
	out.NumUnavailableNodes = wrapperspb.UInt32(uint32(len(out.UnavailableNodes)))
	return out, nil
}

// GetNodes implements observerpb.ObserverServer. The address is the one that the agent's connection comes from.
func (s *Server) GetNodes(ctx context.Context, _ *observerpb.GetNodesRequest) (*observerpb.GetNodesResponse, error) {
	out := &observerpb.GetNodesResponse{}
	for _, n := range statuses(ctx, s) {
		it := &observerpb.Node{
			Name: n.node.name, Address: n.node.address, State: relaypb.NodeState_NODE_UNAVAILABLE, Tls: &observerpb.TLS{Enabled: true},
		}
		if a := n.answer; a != nil {
			it.State, it.Version, it.UptimeNs = relaypb.NodeState_NODE_CONNECTED, a.GetVersion(), a.GetUptimeNs()
			it.NumFlows, it.MaxFlows, it.SeenFlows = a.GetNumFlows(), a.GetMaxFlows(), a.GetSeenFlows()
		}
		out.Nodes = append(out.Nodes, it)
	}
	for _, name := range s.cfg.Nodes.missing() {
		out.Nodes = append(out.Nodes, &observerpb.Node{Name: name, State: relaypb.NodeState_NODE_UNAVAILABLE})
	}
	return out, nil
}

// GetNamespaces implements observerpb.ObserverServer: those with flows in the last hour that the caller may see.
func (s *Server) GetNamespaces(ctx context.Context, _ *observerpb.GetNamespacesRequest) (*observerpb.GetNamespacesResponse, error) {
	scope := callerOf(ctx).scope
	seen := map[string]bool{}
	for _, n := range ask(ctx, s, func(ctx context.Context, n *node) (*observerpb.GetNamespacesResponse, error) {
		return n.client.GetNamespaces(ctx, &observerpb.GetNamespacesRequest{})
	}) {
		for _, ns := range n.answer.GetNamespaces() {
			if scope.Allows(ns.GetNamespace()) {
				seen[ns.GetNamespace()] = true
			}
		}
	}
	out := &observerpb.GetNamespacesResponse{}
	for ns := range seen {
		out.Namespaces = append(out.Namespaces, &observerpb.Namespace{Cluster: hubble.Cluster, Namespace: ns})
	}
	slices.SortFunc(out.Namespaces, hubble.CompareNamespaces)
	return out, nil
}

// Notify implements peerpb.PeerServer: the nodes whose agents are connected. They have no address, for agents listen nowhere.
func (s *Server) Notify(_ *peerpb.NotifyRequest, out peerpb.Peer_NotifyServer) error {
	return s.whileAllowed(out.Context(), callerOf(out.Context()), func(ctx context.Context) error { return s.notify(ctx, out) })
}

func (s *Server) notify(ctx context.Context, out peerpb.Peer_NotifyServer) error {
	known := map[string]bool{}
	for {
		nodes, changed := s.cfg.Nodes.now()
		there := map[string]bool{}
		for _, n := range nodes {
			there[n.name] = true
			if known[n.name] {
				continue
			}
			if err := out.Send(&peerpb.ChangeNotification{Name: n.name, Type: peerpb.ChangeNotificationType_PEER_ADDED}); err != nil {
				return err
			}
		}
		for name := range known {
			if there[name] {
				continue
			}
			if err := out.Send(&peerpb.ChangeNotification{Name: name, Type: peerpb.ChangeNotificationType_PEER_DELETED}); err != nil {
				return err
			}
		}
		known = there
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
