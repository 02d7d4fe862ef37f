package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-mesh/weft/internal/describe"
	"github.com/weft-mesh/weft/internal/explain"
	"github.com/weft-mesh/weft/internal/model"
)

// maxEnds bounds the endpoints of an answer that each have a line of their own.
const maxEnds = 512

// ExplainQuestion is an explain.Question in the name of a reader.
type ExplainQuestion struct {
	explain.Question
	// Node is the only one that is asked, "" for those of the two ends. A node does not look at it.
	Node string `json:"node,omitempty"`
	// Scope is what the reader may see: both ends. The controller sets it.
	Scope Scope `json:"scope"`
}

// Namespaces are those that the reader must be allowed to see.
func (q *ExplainQuestion) Namespaces() []string { return namespacesOf(q.From, q.To.Name) }

// DescribeQuestion is a describe.Question in the name of a reader.
type DescribeQuestion struct {
	describe.Question
	Node  string `json:"node,omitempty"` // as in ExplainQuestion
	Scope Scope  `json:"scope"`
}

// Namespaces are those that the reader must be allowed to see.
func (q *DescribeQuestion) Namespaces() []string { return namespacesOf(q.Name) }

// arrivalQuestion is an explain.Arrival in the name of a reader.
type arrivalQuestion struct {
	explain.Arrival
	Scope Scope `json:"scope"`
}

func namespacesOf(keys ...string) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i], _ = model.SplitKey(k)
	}
	return out
}

// Refuses returns the first of some namespaces that a reader may not see. A name without a namespace is of none.
func (s Scope) Refuses(namespaces []string) (namespace string, refused bool) {
	for _, ns := range namespaces {
		if ns == "" || !s.allows(ns) {
			return ns, true
		}
	}
	return "", false
}

// inScope returns the error for a reader who may not see some namespaces.
func (s Scope) inScope(namespaces ...string) error {
	if ns, refused := s.Refuses(namespaces); refused {
		return status.Errorf(codes.PermissionDenied, "the reader may not see namespace %q", ns)
	}
	return nil
}

func (n *Node) answerExplain(q *ExplainQuestion) (any, error) {
	if err := q.Scope.inScope(q.Namespaces()...); err != nil {
		return nil, err
	}
	a, err := n.explainer().Explain(q.Question)
	if err != nil {
		return nil, questionError(err)
	}
	if !q.Scope.All {
		a = a.For(q.Scope.allows)
	}
	return bounded(a, maxEnds, func(ends int) { a.Limit(ends) })
}

func (n *Node) answerArrival(q *arrivalQuestion) (any, error) {
	if err := q.Scope.inScope(namespacesOf(q.From, q.To)...); err != nil {
		return nil, err
	}
	return n.explainer().Arrive(q.Arrival), nil
}

func (n *Node) answerDescribe(q *DescribeQuestion) (any, error) {
	if err := q.Scope.inScope(q.Namespaces()...); err != nil {
		return nil, err
	}
	of := &describe.Node{Node: *n.explainer()}
	if !q.Scope.All {
		of.Sees = q.Scope.allows
	}
	d, err := of.Describe(q.Question)
	if err != nil {
		return nil, questionError(err)
	}
	return bounded(d, maxRows, func(rows int) { d.Limit(rows) })
}

func questionError(err error) error {
	if errors.Is(err, explain.ErrUnknown) {
		return status.Error(codes.NotFound, err.Error())
	}
	return status.Error(codes.InvalidArgument, err.Error())
}

// bounded encodes a value, with fewer rows until it has room.
func bounded(v any, rows int, limit func(rows int)) (json.RawMessage, error) {
	for ; ; rows /= 2 {
		limit(rows)
		text, err := json.Marshal(v)
		switch {
		case err != nil:
			return nil, err
		case len(text) <= maxMessage:
			return text, nil
		case rows == 0:
			return nil, status.Errorf(codes.ResourceExhausted, "the answer of %d bytes has no room", len(text))
		}
	}
}

// NodeConn asks an agent on the connection that it opened to a controller, in the name of a reader.
type NodeConn struct {
	grpc.ClientConnInterface
	Scope Scope // of the reader
}

// Explain implements Asked.
func (c NodeConn) Explain(ctx context.Context, q explain.Question) (*explain.Answer, error) {
	return invoke[explain.Answer](ctx, c, "Explain", ExplainQuestion{Question: q, Scope: c.Scope})
}

// Arrive implements Asked.
func (c NodeConn) Arrive(ctx context.Context, a explain.Arrival) (*explain.Decision, error) {
	return invoke[explain.Decision](ctx, c, "Arrive", arrivalQuestion{Arrival: a, Scope: c.Scope})
}

// Describe implements Asked.
func (c NodeConn) Describe(ctx context.Context, q describe.Question) (*describe.Description, error) {
	return invoke[describe.Description](ctx, c, "Describe", DescribeQuestion{Question: q, Scope: c.Scope})
}

// AskExplain asks controllers what becomes of a connection or a request. Metadata of ctx has the token.
func AskExplain(ctx context.Context, conn grpc.ClientConnInterface, q ExplainQuestion) (*explain.Answer, error) {
	return one[explain.Answer](ctx, conn, MeshExplain, q)
}

// AskDescribe asks controllers what the mesh makes of an object. Metadata of ctx has the token.
func AskDescribe(ctx context.Context, conn grpc.ClientConnInterface, q DescribeQuestion) (*Described, error) {
	return one[Described](ctx, conn, MeshDescribe, q)
}

// one takes an answer of one message.
func one[T any](ctx context.Context, conn grpc.ClientConnInterface, method string, q any) (*T, error) {
	var out *T
	err := stream(ctx, conn, method, q, func(text []byte) error {
		out = new(T)
		return json.Unmarshal(text, out)
	})
	if err == nil && out == nil {
		err = fmt.Errorf("%s: there is no answer", method)
	}
	return out, err
}
