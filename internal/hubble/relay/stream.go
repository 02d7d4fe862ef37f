package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-mesh/weft/internal/hubble"
)

// ahead is how many messages of a node wait for the client, besides what the windows of its stream hold.
const ahead = 16

// GetFlows implements observerpb.ObserverServer. As with Hubble's relay, number counts for each node.
func (s *Server) GetFlows(r *observerpb.GetFlowsRequest, out observerpb.Observer_GetFlowsServer) error {
	q, err := hubble.NewQuery(r)
	if err == nil && r.GetExtensions() != nil {
		err = errors.New("extensions: none are known")
	}
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	c := callerOf(out.Context())
	// What is left out of flows is left out here: what decides who sees them must be there until then.
	asked := proto.CloneOf(r)
	asked.FieldMask = nil
	if asked.Extensions, err = c.scope.Any(); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return s.whileAllowed(out.Context(), c, func(ctx context.Context) error {
		w := &request{server: s, caller: c, query: q, asked: asked, ctx: ctx, client: newClient(ctx, out.Send, s.cfg.Times.Client)}
		return w.run()
	})
}

// request is one for flows.
type request struct {
	server *Server
	caller *caller
	query  *hubble.Query
	asked  *observerpb.GetFlowsRequest // of nodes
	ctx    context.Context
	client *client[*observerpb.GetFlowsResponse]
}

func (w *request) run() error {
	nodes, changed := w.server.cfg.Nodes.now()
	if err := w.state(relaypb.NodeState_NODE_UNAVAILABLE, "no connection to the agent", w.server.cfg.Nodes.missing()...); err != nil {
		return err
	}
	var readers []*reader
	for _, n := range nodes {
		readers = append(readers, w.read(n, w.asked))
	}
	if err := w.history(readers); err != nil || !w.query.Follow {
		return err
	}
	return w.follow(readers, changed)
}

// state tells the client of the state of nodes.
func (w *request) state(state relaypb.NodeState, message string, nodes ...string) error {
	if len(nodes) == 0 {
		return nil
	}
	return w.client.send(&observerpb.GetFlowsResponse{
		Time: timestamppb.Now(),
		ResponseTypes: &observerpb.GetFlowsResponse_NodeStatus{NodeStatus: &relaypb.NodeStatusEvent{
			StateChange: state, NodeNames: nodes, Message: message,
		}},
	})
}

// pass sends the client what it may see of a node's message. What a node says of other nodes is left out.
func (w *request) pass(n *node, m *observerpb.GetFlowsResponse) error {
	m.NodeName = n.name
	switch of := m.GetResponseTypes().(type) {
	case *observerpb.GetFlowsResponse_Flow:
		if !w.caller.scope.Shows(of.Flow) {
			return nil
		}
		of.Flow.NodeName = n.name
		of.Flow = w.query.Masked(of.Flow)
	case *observerpb.GetFlowsResponse_LostEvents:
		of.LostEvents = &flowpb.LostEvent{Source: of.LostEvents.GetSource(), NumEventsLost: of.LostEvents.GetNumEventsLost()}
	default:
		return nil
	}
	return w.client.send(m)
}

// errNoAnswer ends the answer of a node that is silent for too long.
var errNoAnswer = errors.New("no answer")

// reader reads a node's answer.
type reader struct {
	node     *node
	out      chan *observerpb.GetFlowsResponse // closed at the end
	err      error                             // why it ended; nil if it had sent all. Read it after out is closed.
	reported string                            // what the client was told of err before it followed
}

// read asks a node. It does not wait.
func (w *request) read(n *node, asked *observerpb.GetFlowsRequest) *reader {
	r := &reader{node: n, out: make(chan *observerpb.GetFlowsResponse, ahead)}
	go func() {
		defer close(r.out)
		r.err = r.run(w.ctx, asked, w.server.cfg.Times.Node)
	}()
	return r
}

// run reads until the node ends its answer. Each reader watches its own node, so that all nodes that are silent are given up at
// the same time. A node is silent while it may send and does not, until it has sent what it kept: not while the client is slow.
func (r *reader) run(ctx context.Context, asked *observerpb.GetFlowsRequest, patient time.Duration) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	silent := time.AfterFunc(patient, func() { end(fmt.Errorf("%w within %s", errNoAnswer, patient)) })
	defer silent.Stop()
	in, err := r.node.client.GetFlows(ctx, asked)
	for kept := true; err == nil; {
		var m *observerpb.GetFlowsResponse
		if m, err = in.Recv(); err != nil {
			break
		}
		silent.Stop()
		select {
		case r.out <- m:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if kept = kept && m.GetNodeStatus() == nil; kept {
			silent.Reset(patient)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	if cause := context.Cause(ctx); errors.Is(cause, errNoAnswer) {
		return cause
	}
	return err
}

// client sends messages to a client, and gives up one that does not read.
type client[M any] struct {
	ctx     context.Context
	patient time.Duration
	in      chan M
	out     chan error
}

func newClient[M any](ctx context.Context, send func(M) error, patient time.Duration) *client[M] {
	c := &client[M]{ctx: ctx, patient: patient, in: make(chan M), out: make(chan error, 1)}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case m := <-c.in:
				c.out <- send(m) // it ends with the stream, and that with the request
			}
		}
	}()
	return c
}

func (c *client[M]) send(m M) error {
	late := time.NewTimer(c.patient)
	defer late.Stop()
	select {
	case c.in <- m:
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
	select {
	case err := <-c.out:
		return err
	case <-c.ctx.Done():
		return c.ctx.Err()
	case <-late.C:
		return status.Errorf(codes.ResourceExhausted, "the client has not read for %s", c.patient)
	}
}
