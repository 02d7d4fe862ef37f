package relay

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/api"
)

// askedAtOnce is how many nodes are asked at a time for their rows: so many answers are in memory.
const askedAtOnce = 8

// registerMesh serves what weft status, config, explain, describe, edges and top ask for. Readers are authenticated by the interceptors.
func (s *Server) registerMesh(server grpc.ServiceRegistrar) {
	read := func(answer func(*caller, []byte, *meshStream) error) grpc.StreamHandler {
		return func(_ any, stream grpc.ServerStream) error {
			var text wrapperspb.BytesValue
			if err := stream.RecvMsg(&text); err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(stream.Context())
			defer cancel()
			send := func(m *wrapperspb.BytesValue) error { return stream.SendMsg(m) }
			return answer(callerOf(ctx), text.GetValue(), &meshStream{newClient(ctx, send, s.cfg.Times.Client)})
		}
	}
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: api.MeshService, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			{StreamName: "Ask", ServerStreams: true, Handler: read(s.askRows)},
			{StreamName: "Explain", ServerStreams: true, Handler: read(s.explain)},
			{StreamName: "Describe", ServerStreams: true, Handler: read(s.describe)},
			{StreamName: "Edges", ServerStreams: true, Handler: read(s.edges)},
		},
	}, s)
}

// meshStream sends messages of JSON to a reader.
type meshStream struct {
	*client[*wrapperspb.BytesValue]
}

func (m *meshStream) json(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return m.send(wrapperspb.Bytes(text))
}

// askRows answers a Question with what nodes say of what the caller may see.
func (s *Server) askRows(c *caller, text []byte, to *meshStream) error {
	var q api.Question
	err := json.Unmarshal(text, &q)
	if err == nil {
		err = q.Check()
	}
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	q.Scope = api.Scope(c.scope)
	nodes, _ := s.cfg.Nodes.now()
	end := &api.MeshEnd{Scope: q.Scope, Nodes: []api.MeshNode{}}
	for _, name := range s.cfg.Nodes.missing() {
		if q.Node == "" || q.Node == name {
			end.Nodes = append(end.Nodes, api.MeshNode{Name: name, Error: "its agent is not connected"})
		}
	}
	if q.Node != "" {
		nodes = slices.DeleteFunc(nodes, func(n *node) bool { return n.name != q.Node })
		if len(nodes)+len(end.Nodes) == 0 {
			return status.Errorf(codes.NotFound, "node %s has no agent", q.Node)
		}
	}
	if err := s.gather(to, nodes, &q, end); err != nil {
		return err
	}
	slices.SortFunc(end.Nodes, func(a, b api.MeshNode) int { return cmp.Compare(a.Name, b.Name) })
	return to.json(api.MeshPart{End: end})
}

// gather asks nodes, some at a time, and sends what they answer, each value once.
func (s *Server) gather(to *meshStream, nodes []*node, q *api.Question, end *api.MeshEnd) error {
	ctx, cancel := context.WithCancelCause(to.ctx)
	defer cancel(nil)
	values := map[[sha256.Size]byte]int{}
	var mu sync.Mutex
	take := func(n *node, a *api.Answer, err error) error {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			end.Nodes = append(end.Nodes, api.MeshNode{Name: n.name, Error: why(err)})
			return nil
		}
		key := sha256.Sum256(fmt.Appendf(nil, "%d %s", a.More, a.Value))
		id, known := values[key]
		if !known {
			id = len(values)
			values[key] = id
		}
		end.Nodes = append(end.Nodes, api.MeshNode{Name: n.name, ID: id})
		if known {
			return nil
		}
		return to.json(api.MeshPart{ID: id, Answer: *a}) // others wait for a reader that is slow
	}
	slots := make(chan struct{}, askedAtOnce)
	var all sync.WaitGroup
	for _, n := range nodes {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			asked, done := context.WithTimeout(ctx, s.cfg.Times.Node)
			defer done()
			a, err := api.Ask(asked, n.grpc, *q)
			if err := take(n, a, err); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// why says why a node did not answer.
func why(err error) string {
	switch st := status.Convert(err); st.Code() {
	case codes.Unimplemented:
		return "its agent is of an earlier version"
	case codes.DeadlineExceeded:
		return "it does not answer in time"
	default:
		return st.Message()
	}
}

// edges answers with what the caller may see of the service map.
func (s *Server) edges(c *caller, _ []byte, to *meshStream) error {
	g, err := (&view{s, c}).Graph(to.ctx)
	if err != nil {
		return err
	}
	return to.json(g)
}
