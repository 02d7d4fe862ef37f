package relay

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/describe"
	"github.com/weft-mesh/weft/internal/explain"
)

// explain answers what becomes of a connection, to who may see both ends.
func (s *Server) explain(c *caller, text []byte, to *meshStream) error {
	var q api.ExplainQuestion
	if err := json.Unmarshal(text, &q); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	nodes, _, err := s.asked(c, q.Node, q.Namespaces())
	if err != nil {
		return err
	}
	a, err := nodes.Explain(to.ctx, q.Question)
	if err != nil {
		return err
	}
	return to.json(a)
}

// describe answers what the mesh makes of an object, to who may see its namespace.
func (s *Server) describe(c *caller, text []byte, to *meshStream) error {
	var q api.DescribeQuestion
	if err := json.Unmarshal(text, &q); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	nodes, missing, err := s.asked(c, q.Node, q.Namespaces())
	if err != nil {
		return err
	}
	d, err := nodes.Describe(to.ctx, q.Question)
	if err != nil {
		return err
	}
	for _, name := range missing {
		if d.Pod == nil || d.Pod.Node == name {
			d.Problems = append(d.Problems, api.DoesNotTell(name, errNotConnected))
		}
	}
	return to.json(d)
}

var errNotConnected = nodeError{status.New(codes.Unavailable, "its agent is not connected")}

// asked returns the agents that answer the caller, who must be allowed to see namespaces: all, or the one of a node. missing are
// the nodes whose agents are not connected.
func (s *Server) asked(c *caller, only string, namespaces []string) (nodes api.AskedNodes, missing []string, err error) {
	scope := api.Scope(c.scope)
	switch ns, refused := scope.Refuses(namespaces); {
	case refused && ns == "":
		return nil, nil, status.Error(codes.InvalidArgument, "a name is not of the form NAMESPACE/NAME")
	case refused:
		return nil, nil, status.Errorf(codes.PermissionDenied, "%s may not list %s.weft.io in namespace %q, and the answer is for those who may; see the ClusterRole %s", c.user, c.right, ns, roles[c.right])
	}
	all, _ := s.cfg.Nodes.now()
	for _, n := range all {
		if only == "" || n.name == only {
			nodes = append(nodes, api.AskedNode{Name: n.name, Agent: &askedNode{api.NodeConn{ClientConnInterface: n.grpc, Scope: scope}, s.cfg.Times.Node}})
		}
	}
	for _, name := range s.cfg.Nodes.missing() {
		if only == "" || name == only {
			missing = append(missing, name)
		}
	}
	switch {
	case len(nodes) > 0:
		return nodes, missing, nil
	case len(missing) > 0:
		return nil, nil, status.Errorf(codes.Unavailable, "node %s: %s", missing[0], errNotConnected)
	case only != "":
		return nil, nil, status.Errorf(codes.NotFound, "node %s has no agent", only)
	}
	return nil, nil, status.Error(codes.Unavailable, "no agent is connected to the controllers")
}

// askedNode is a node's agent, with a bound on how long it may take.
type askedNode struct {
	conn   api.NodeConn
	within time.Duration
}

// Explain implements api.Asked.
func (n *askedNode) Explain(ctx context.Context, q explain.Question) (*explain.Answer, error) {
	return askOne(ctx, n, q, n.conn.Explain)
}

// Arrive implements api.Asked.
func (n *askedNode) Arrive(ctx context.Context, a explain.Arrival) (*explain.Decision, error) {
	return askOne(ctx, n, a, n.conn.Arrive)
}

// Describe implements api.Asked.
func (n *askedNode) Describe(ctx context.Context, q describe.Question) (*describe.Description, error) {
	return askOne(ctx, n, q, n.conn.Describe)
}

func askOne[Q, A any](ctx context.Context, n *askedNode, q Q, ask func(context.Context, Q) (*A, error)) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, n.within)
	defer cancel()
	a, err := ask(ctx, q)
	if err != nil {
		code := status.Code(err)
		if code != codes.NotFound && code != codes.InvalidArgument && code != codes.ResourceExhausted {
			code = codes.Unavailable
		}
		return nil, nodeError{status.New(code, why(err))}
	}
	return a, nil
}

// nodeError says in words why a node gives no answer, and is a status to the reader.
type nodeError struct{ *status.Status }

func (e nodeError) Error() string { return e.Message() }

// GRPCStatus returns what the reader gets.
func (e nodeError) GRPCStatus() *status.Status { return e.Status }
