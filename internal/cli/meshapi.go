package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/explain"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/servicemap"
)

// ask asks the flows API for rows.
func (s *flowsServer) ask(ctx context.Context, r *reach, q api.Question) (*api.MeshAnswer, error) {
	return asServer(ctx, s, r, func(ctx context.Context, conn *grpc.ClientConn) (*api.MeshAnswer, error) {
		return api.AskMesh(ctx, conn, q)
	})
}

// asServer asks the flows API in the name of the user.
func asServer[T any](ctx context.Context, s *flowsServer, r *reach, do func(context.Context, *grpc.ClientConn) (T, error)) (out T, err error) {
	ctx, conn, err := s.dial(ctx, r)
	if err != nil {
		return out, err
	}
	defer func() { _ = conn.Close() }() // it is over anyway
	if out, err = do(ctx, conn); err != nil {
		return out, s.failed(err)
	}
	return out, nil
}

// explain asks the flows API what becomes of a connection.
func (s *flowsServer) explain(ctx context.Context, r *reach, q api.ExplainQuestion) (*explain.Answer, error) {
	return asServer(ctx, s, r, func(ctx context.Context, conn *grpc.ClientConn) (*explain.Answer, error) {
		return api.AskExplain(ctx, conn, q)
	})
}

// describe asks the flows API what the mesh makes of an object.
func (s *flowsServer) describe(ctx context.Context, r *reach, q api.DescribeQuestion) (*api.Described, error) {
	d, err := asServer(ctx, s, r, func(ctx context.Context, conn *grpc.ClientConn) (*api.Described, error) {
		return api.AskDescribe(ctx, conn, q)
	})
	if err == nil && d.Description == nil {
		return nil, fmt.Errorf("%s: the answer is empty", s.address)
	}
	return d, err
}

// edges asks the flows API for the service map.
func (s *flowsServer) edges(ctx context.Context, r *reach) (*servicemap.Graph, error) {
	return asServer(ctx, s, r, func(ctx context.Context, conn *grpc.ClientConn) (*servicemap.Graph, error) {
		return api.AskEdges(ctx, conn)
	})
}

// decoded returns what each node answered. A value that several nodes gave is decoded for each.
func decoded[T any](a *api.MeshAnswer) ([]answer[T], error) {
	var out []answer[T]
	for _, n := range a.Nodes {
		v := answer[T]{node: n.Name}
		if n.Error != "" {
			v.err = errors.New(n.Error)
		} else if err := json.Unmarshal(a.Values[n.ID].Value, &v.value); err != nil {
			return nil, fmt.Errorf("node %s: the answer cannot be read (is its agent of another version?): %w", n.Name, err)
		}
		out = append(out, v)
	}
	return out, nil
}

// serverLists asks the flows API for a list. It is an error if no node answers.
func serverLists[T any](ctx context.Context, r *reach, s *flowsServer, q api.Question) (*listings[T], error) {
	a, err := s.ask(ctx, r, q)
	if err != nil {
		return nil, err
	}
	out := &listings[T]{}
	for _, v := range a.Values {
		l := listing[T]{}
		if err := json.Unmarshal(v.Value, &l.Items); err != nil {
			return nil, fmt.Errorf("a list cannot be read (is an agent of another version?): %w", err)
		}
		if v.More > 0 {
			out.cut = append(out.cut, fmt.Sprintf("%d rows of %s are left out: name a namespace by -n, or an object", v.More, q.What))
		}
		out.all = append(out.all, l)
	}
	for _, n := range a.Nodes {
		if n.Error != "" {
			out.failed = append(out.failed, answer[[]T]{node: n.Name, err: errors.New(n.Error)})
			continue
		}
		out.all[n.ID].Nodes = append(out.all[n.ID].Nodes, n.Name)
	}
	slices.Sort(out.cut)
	out.cut = slices.Compact(out.cut)
	switch {
	case len(out.all) > 0:
		return out, nil
	case len(out.failed) > 0:
		return nil, fmt.Errorf("node %s: %w", out.failed[0].node, out.failed[0].err)
	}
	return nil, errors.New("no agent is connected to the controllers")
}

// showStatus prints the status of the cluster, or of the node that r names, and reports whether it is healthy.
func (s *flowsServer) showStatus(ctx context.Context, w io.Writer, r *reach, out *output, now time.Time) (healthy bool, err error) {
	a, err := s.ask(ctx, r, api.Question{What: api.AskStatus, Node: r.node})
	if err != nil {
		return false, err
	}
	nodes, err := decoded[api.Status](a)
	if err != nil {
		return false, err
	}
	if r.node != "" && a.Scope.All && len(nodes) == 1 {
		if nodes[0].err != nil {
			return false, fmt.Errorf("node %s: %w", r.node, nodes[0].err)
		}
		return showNodeStatus(w, s.address, r.node, &nodes[0].value, out, now)
	}
	c := s.status(a, nodes)
	done, err := out.structured(w, c)
	if err == nil && !done {
		err = printClusterStatus(w, c)
	}
	return c.Healthy, err
}

// status merges what nodes say.
func (s *flowsServer) status(a *api.MeshAnswer, nodes []answer[api.Status]) *meshStatus {
	c := newMeshStatus(s.address)
	silent := 0
	for _, n := range nodes {
		if n.err != nil {
			silent++
		}
		c.add(&n.value)
		if a.Scope.All {
			c.addNode(nodeOf(survey.Pod{Node: n.node, Ready: true}, n))
			continue
		}
		for _, i := range n.value.Identities {
			if i.Trouble != "" {
				c.Identities, c.Healthy = append(c.Identities, i), false
			}
		}
	}
	for _, v := range a.Values {
		c.Cut += v.More
	}
	if !a.Scope.All {
		c.Namespaces = a.Scope.Namespaces
		if silent > 0 {
			c.Healthy, c.Unread = false, fmt.Sprintf("%d of %d nodes do not answer: what is on them is missing", silent, len(nodes))
		}
	}
	c.sort()
	return c
}
