package api

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The service that an agent serves to controllers on the connection that it opened for flows. Messages hold JSON: a Question and
// an Answer; for weft explain and describe those of packages explain and describe.
const (
	rpcService = "weft.api.v1.Node"
	// maxMessage bounds an answer, in bytes, below what a controller takes.
	maxMessage = 900 << 10
	// maxAsked bounds the questions that a node answers at once; others wait. maxRows bounds the rows of each part of a status.
	maxAsked, maxRows = 4, 1000
)

// AskStatus is the Question for a Status. Those for lists have the names of /v1/config/<what>.
const AskStatus = "node-status"

// Question is what a controller asks a node for in the name of a reader.
type Question struct {
	What string `json:"what"` // AskStatus, or a list
	// Namespace and Name restrict a list where they are not "".
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// Node is the only one that is asked, "" for all. A node does not look at it.
	Node string `json:"node,omitempty"`
	// Scope is what the reader may see. The controller sets it.
	Scope Scope `json:"scope"`
}

// Check returns an error if it is not known what is asked for.
func (q *Question) Check() error {
	if _, known := listers[q.What]; !known && q.What != AskStatus {
		return fmt.Errorf("what %q is asked for is not known", q.What)
	}
	return nil
}

// Answer is a node's.
type Answer struct {
	Value json.RawMessage `json:"value"` // a Status, or a list
	// More counts the rows for which there was no room.
	More int `json:"more,omitempty"`
}

// Register serves a node's rows to controllers.
func Register(server grpc.ServiceRegistrar, n Node) {
	slots := make(chan struct{}, maxAsked)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: rpcService, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			method("Ask", slots, func(q *Question) (any, error) {
				if err := q.Check(); err != nil {
					return nil, status.Error(codes.InvalidArgument, err.Error())
				}
				return n.answer(q)
			}),
			method("Explain", slots, n.answerExplain),
			method("Arrive", slots, n.answerArrival),
			method("Describe", slots, n.answerDescribe),
		},
	}, &n)
}

// method answers questions of a type, as many at once as there are slots.
func method[Q any](name string, slots chan struct{}, answer func(*Q) (any, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, in func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var text wrapperspb.BytesValue
		if err := in(&text); err != nil {
			return nil, err
		}
		q := new(Q)
		if err := json.Unmarshal(text.GetValue(), q); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		a, err := answer(q)
		if err != nil {
			return nil, err
		}
		out, err := json.Marshal(a)
		return wrapperspb.Bytes(out), err
	}}
}

// answer returns what the reader may see of what is asked for.
func (n *Node) answer(q *Question) (*Answer, error) {
	if q.What == AskStatus {
		whole := NewStatus(*n, time.Now())
		whole.Identities = keep(whole.Identities, func(i Identity) bool { return i.Local })
		s := whole.For(q.Scope)
		if !q.Scope.All {
			for row := range n.State.Statuses.All(n.State.Snapshot()) {
				if q.Scope.allows(row.Object.Namespace) {
					s.Objects++
				}
			}
		}
		return s.encode()
	}
	return encodeList(listFor(listers[q.What](n.State, q.Namespace, q.Name), q.Scope))
}

// encode leaves rows out until the status has room.
func (s *Status) encode() (*Answer, error) {
	more := 0
	for rows := maxRows; ; rows /= 2 {
		more += cut(&s.Workloads, rows) + cut(&s.Identities, rows) + cut(&s.Gateways, rows) + cut(&s.Rejections, rows) + cut(&s.Troubles, rows)
		more += cut(&s.Datapath.Hooks, rows) + cut(&s.Datapath.Failures, rows) + cut(&s.Faults, rows)
		if s.Folder != nil {
			more += cut(&s.Folder.Problems, rows)
		}
		text, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		if len(text) <= maxMessage || rows == 0 {
			return &Answer{Value: text, More: more}, nil
		}
	}
}

// cut leaves the first n of a list, and returns how many there were beyond.
func cut[T any](list *[]T, n int) int {
	beyond := max(len(*list)-n, 0)
	*list = (*list)[:len(*list)-beyond]
	return beyond
}

// encodeList encodes the items of a list for which there is room.
func encodeList(list any) (*Answer, error) {
	all := reflect.ValueOf(list)
	text := []byte{'['}
	for i := range all.Len() {
		item, err := json.Marshal(all.Index(i).Interface())
		if err != nil {
			return nil, err
		}
		if len(text)+len(item)+2 > maxMessage {
			return &Answer{Value: append(text, ']'), More: all.Len() - i}, nil
		}
		if i > 0 {
			text = append(text, ',')
		}
		text = append(text, item...)
	}
	return &Answer{Value: append(text, ']')}, nil
}

// Ask asks a node.
func Ask(ctx context.Context, conn grpc.ClientConnInterface, q Question) (*Answer, error) {
	return invoke[Answer](ctx, conn, "Ask", q)
}

func invoke[T any](ctx context.Context, conn grpc.ClientConnInterface, method string, q any) (*T, error) {
	text, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	var out wrapperspb.BytesValue
	if err := conn.Invoke(ctx, "/"+rpcService+"/"+method, wrapperspb.Bytes(text), &out); err != nil {
		return nil, err
	}
	a := new(T)
	if err := json.Unmarshal(out.GetValue(), a); err != nil {
		return nil, fmt.Errorf("what a node answers cannot be read: %w", err)
	}
	return a, nil
}
