package servicemap

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/observe"
)

// The service that an agent serves to controllers on the connection that it opened for flows. Messages hold JSON: a Part;
// a Pair and []observe.Flow.
const (
	rpcService = "weft.servicemap.v1.Map"
	rpcPart    = "/" + rpcService + "/Part"
	rpcFlows   = "/" + rpcService + "/Flows"
	// maxMessage bounds an answer, in bytes, below what a controller takes.
	maxMessage = 900 << 10
)

// Register serves a node's answers.
func Register(server grpc.ServiceRegistrar, n *Local) {
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: rpcService, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Part", Handler: func(_ any, ctx context.Context, in func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				if err := in(&emptypb.Empty{}); err != nil {
					return nil, err
				}
				return encodePart(n.Part(ctx))
			}},
			{MethodName: "Flows", Handler: func(_ any, ctx context.Context, in func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var text wrapperspb.BytesValue
				if err := in(&text); err != nil {
					return nil, err
				}
				var p Pair
				if err := json.Unmarshal(text.GetValue(), &p); err != nil {
					return nil, status.Error(codes.InvalidArgument, err.Error())
				}
				flows, err := n.Flows(ctx, p)
				if err != nil {
					return nil, err
				}
				out, err := json.Marshal(flows)
				return wrapperspb.Bytes(out), err
			}},
		},
	}, n)
}

// encodePart leaves counts out until the message is not too large.
func encodePart(p *Part) (*wrapperspb.BytesValue, error) {
	for {
		text, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		if len(text) <= maxMessage || len(p.Counts) == 0 {
			return wrapperspb.Bytes(text), nil
		}
		p.cut(len(p.Counts) / 2)
	}
}

// AskPart asks a node for its Part.
func AskPart(ctx context.Context, conn grpc.ClientConnInterface) (*Part, error) {
	var out wrapperspb.BytesValue
	if err := conn.Invoke(ctx, rpcPart, &emptypb.Empty{}, &out); err != nil {
		return nil, err
	}
	p := &Part{}
	if err := json.Unmarshal(out.GetValue(), p); err != nil {
		return nil, fmt.Errorf("what a node counts cannot be read: %w", err)
	}
	p.cut(MaxCounts)
	return p, nil
}

// AskFlows asks a node for the last flows of a pair.
func AskFlows(ctx context.Context, conn grpc.ClientConnInterface, p Pair) ([]observe.Flow, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	var answer wrapperspb.BytesValue
	if err := conn.Invoke(ctx, rpcFlows, wrapperspb.Bytes(text), &answer); err != nil {
		return nil, err
	}
	var out []observe.Flow
	if err := json.Unmarshal(answer.GetValue(), &out); err != nil {
		return nil, fmt.Errorf("a node's flows cannot be read: %w", err)
	}
	return out[:min(len(out), MaxFlows)], nil
}
