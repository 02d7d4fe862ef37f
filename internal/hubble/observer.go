package hubble

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// maxQueries bounds the requests for flows that a node answers at once.
	maxQueries = 64
	// maxSearches bounds those that look through what is kept at once, which takes a processor; others wait.
	maxSearches = 2
)

// Config of an Observer.
type Config struct {
	Node, Version string
	State         *state.State
	Flows         *observe.Store
	Started       time.Time
	Effort        time.Duration // DefaultEffort if zero
}

// Observer serves the flows of a node to the controller, which says by the scope of a request whose they are.
type Observer struct {
	observerpb.UnimplementedObserverServer
	cfg   Config
	flows *mapper
	// slots are held while a request is answered, searches while it looks through what is kept.
	slots, searches chan struct{}
}

// NewObserver makes an Observer.
func NewObserver(cfg Config) *Observer {
	return &Observer{
		cfg: cfg, flows: newMapper(cfg.Node, cfg.Version, cfg.State),
		slots: make(chan struct{}, maxQueries), searches: make(chan struct{}, maxSearches),
	}
}

// GetFlows implements observerpb.ObserverServer. Where flows are followed, a node status says where those that were there
// before end. A reader that is too slow is told how many flows it missed.
func (o *Observer) GetFlows(r *observerpb.GetFlowsRequest, out observerpb.Observer_GetFlowsServer) error {
	q, err := NewQuery(r)
	if err == nil {
		q.Scope, err = scopeOf(r.GetExtensions())
	}
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	select {
	case o.slots <- struct{}{}:
		defer func() { <-o.slots }()
	default:
		return status.Errorf(codes.ResourceExhausted, "node %s answers %d requests for flows already", o.cfg.Node, maxQueries)
	}
	ctx, meter, end := o.metered(out.Context())
	defer end()
	filter, err := o.filter(q, meter)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	// It begins before the list is made, so that no flow falls between them; what both give is sent once.
	var events iter.Seq[observe.Event]
	if q.Follow {
		events = o.cfg.Flows.Follow(ctx, filter)
	}
	last, err := o.sendHistory(q, filter, out)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil || !q.Follow {
		return err
	}
	complete := &relaypb.NodeStatusEvent{StateChange: relaypb.NodeState_NODE_CONNECTED, NodeNames: []string{o.cfg.Node}}
	if err := out.Send(o.answer(&observerpb.GetFlowsResponse{
		ResponseTypes: &observerpb.GetFlowsResponse_NodeStatus{NodeStatus: complete},
	}, time.Now())); err != nil {
		return err
	}
	for e := range events {
		if e.Flow != nil && e.Flow.Seq <= last {
			continue
		}
		if err := o.send(q, e, out); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// sendHistory sends the flows that are kept, and returns the number of the last one.
func (o *Observer) sendHistory(q *Query, filter observe.Filter, out observerpb.Observer_GetFlowsServer) (last uint64, err error) {
	if !q.history() {
		return 0, nil
	}
	limit := q.Number
	if q.First {
		limit = 0
	}
	select {
	case o.searches <- struct{}{}:
	case <-out.Context().Done():
		return 0, out.Context().Err()
	}
	kept := o.cfg.Flows.History(filter, limit)
	<-o.searches
	sent := 0
	var lost uint64 // since the last flow that was sent
	for e := range kept {
		if q.First && q.Number > 0 && sent == q.Number {
			return last, nil
		}
		lost += e.Lost
		if e.Flow == nil {
			continue
		}
		if err := o.send(q, observe.Event{Lost: lost, Flow: e.Flow}, out); err != nil {
			return 0, err
		}
		sent++
		last, lost = e.Flow.Seq, 0
	}
	return last, o.send(q, observe.Event{Lost: lost}, out)
}

// filter returns what a query takes of the flows of the node.
func (o *Observer) filter(q *Query, m *meter) (observe.Filter, error) {
	f, err := observe.Terms{Since: q.Since, Until: q.Until}.Filter()
	if err != nil {
		return f, err
	}
	if !q.Scope.All {
		f = f.And(func(f *observe.Flow) bool {
			return q.Scope.Allows(f.Source.Namespace()) || q.Scope.Allows(f.Destination.Namespace())
		})
	}
	if !q.Filter.empty() {
		f = f.And(m.measured(q.Filter.Match, func(f *observe.Flow) *flowpb.Flow { return o.flows.filtered(o.cfg.State.Snapshot(), f) }))
	}
	return f, nil
}

func (o *Observer) send(q *Query, e observe.Event, out observerpb.Observer_GetFlowsServer) error {
	if e.Lost > 0 {
		at := time.Now()
		if e.Flow != nil {
			at = e.Flow.Time // it comes before that flow, also where those of several nodes are put in order
		}
		lost := &flowpb.LostEvent{Source: flowpb.LostEventSource_OBSERVER_EVENTS_QUEUE, NumEventsLost: e.Lost}
		if err := out.Send(o.answer(&observerpb.GetFlowsResponse{
			ResponseTypes: &observerpb.GetFlowsResponse_LostEvents{LostEvents: lost},
		}, at)); err != nil {
			return err
		}
	}
	if e.Flow == nil {
		return nil
	}
	f := q.Masked(o.flows.flow(o.cfg.State.Snapshot(), e.Flow))
	return out.Send(o.answer(&observerpb.GetFlowsResponse{ResponseTypes: &observerpb.GetFlowsResponse_Flow{Flow: f}}, e.Flow.Time))
}

// answer adds the node and the time to a message.
func (o *Observer) answer(out *observerpb.GetFlowsResponse, at time.Time) *observerpb.GetFlowsResponse {
	out.NodeName, out.Time = o.cfg.Node, timestamppb.New(at)
	return out
}

// ServerStatus implements observerpb.ObserverServer.
func (o *Observer) ServerStatus(context.Context, *observerpb.ServerStatusRequest) (*observerpb.ServerStatusResponse, error) {
	seen, kept := o.cfg.Flows.Count(), o.cfg.Flows.Capacity()
	return &observerpb.ServerStatusResponse{
		NumFlows: min(seen, kept), MaxFlows: kept, SeenFlows: seen, UptimeNs: uint64(time.Since(o.cfg.Started)),
		NumConnectedNodes: wrapperspb.UInt32(1), NumUnavailableNodes: wrapperspb.UInt32(0), Version: o.cfg.Version,
		FlowsRate: o.rate(time.Now()),
	}, nil
}

// rate returns the flows a second of the last minute, of those that are kept.
func (o *Observer) rate(now time.Time) float64 {
	f, err := observe.Terms{Since: now.Add(-time.Minute)}.Filter()
	if err != nil {
		return 0
	}
	return float64(o.cfg.Flows.Matching(f)) / time.Minute.Seconds()
}

// GetNamespaces implements observerpb.ObserverServer: the namespaces that had flows in the last hour, of those that are kept.
func (o *Observer) GetNamespaces(context.Context, *observerpb.GetNamespacesRequest) (*observerpb.GetNamespacesResponse, error) {
	f, err := observe.Terms{Since: time.Now().Add(-time.Hour)}.Filter()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	seen := map[string]bool{}
	o.cfg.Flows.Matching(f.And(func(f *observe.Flow) bool {
		seen[f.Source.Namespace()], seen[f.Destination.Namespace()] = true, true
		return true
	}))
	delete(seen, "")
	out := &observerpb.GetNamespacesResponse{}
	for ns := range seen {
		out.Namespaces = append(out.Namespaces, &observerpb.Namespace{Cluster: Cluster, Namespace: ns})
	}
	slices.SortFunc(out.Namespaces, CompareNamespaces)
	return out, nil
}

// CompareNamespaces orders namespaces as Hubble does.
func CompareNamespaces(a, b *observerpb.Namespace) int {
	return cmp.Or(strings.Compare(a.GetCluster(), b.GetCluster()), strings.Compare(a.GetNamespace(), b.GetNamespace()))
}
