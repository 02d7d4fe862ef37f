package api

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/weft-mesh/weft/internal/describe"
	"github.com/weft-mesh/weft/internal/explain"
)

const (
	// maxArrivals bounds how many endpoints on other nodes are asked about there; endsAtOnce how many nodes at a time.
	maxArrivals, endsAtOnce = 32, 8
	// maxFirst bounds how many nodes are asked on which node a pod is.
	maxFirst = 3

	seeAgent = "see its agent (weft status)"
)

// Asked is an agent that is asked about an object or a connection.
type Asked interface {
	Explain(ctx context.Context, q explain.Question) (*explain.Answer, error)
	Arrive(ctx context.Context, a explain.Arrival) (*explain.Decision, error)
	Describe(ctx context.Context, q describe.Question) (*describe.Description, error)
}

// AskedNode is a node's agent. A question to it ends after a time that it bounds.
type AskedNode struct {
	Name  string
	Agent Asked
}

// AskedNodes are the agents of a cluster; there is one at least.
type AskedNodes []AskedNode

// Described is a description, and the node that gave it.
type Described struct {
	Node string `json:"node"` // that knows it best
	*describe.Description
}

// at returns the agent of a node.
func (all AskedNodes) at(name string) (AskedNode, bool) {
	i := slices.IndexFunc(all, func(n AskedNode) bool { return n.Name == name })
	if i < 0 {
		return AskedNode{}, false
	}
	return all[i], true
}

// first returns the answer of the first node that has one.
func first[T any](all AskedNodes, ask func(Asked) (T, error)) (node string, out T, err error) {
	for i, n := range all {
		v, nodeErr := ask(n.Agent)
		if nodeErr == nil {
			return n.Name, v, nil
		}
		if err == nil {
			err = nodeErr
		}
		if i == maxFirst-1 {
			break
		}
	}
	return "", out, err
}

// Explain asks the source's node, and those of the endpoints what they decide.
func (all AskedNodes) Explain(ctx context.Context, q explain.Question) (*explain.Answer, error) {
	node, a, err := first(all, func(n Asked) (*explain.Answer, error) { return n.Explain(ctx, q) })
	if err != nil {
		return nil, err
	}
	if own, ok := all.at(a.Node); ok && !a.Local {
		better, err := own.Agent.Explain(ctx, q)
		if err != nil {
			a.Notes = append(a.Notes, fmt.Sprintf("node %s of the source does not answer, so node %s was asked: %s", a.Node, node, err))
		} else {
			a = better
		}
	}
	all.arrivals(ctx, a)
	NoteRemote(a)
	return a, nil
}

// arrivals asks the nodes of the endpoints what they decide.
func (all AskedNodes) arrivals(ctx context.Context, a *explain.Answer) {
	asked := 0
	slots := make(chan struct{}, endsAtOnce)
	var done sync.WaitGroup
	for i := range a.Ends {
		end := &a.Ends[i]
		n, ok := all.at(end.Node)
		arrival := a.Arrival(end)
		if !ok || end.Local || arrival == nil || asked == maxArrivals {
			continue
		}
		asked++
		slots <- struct{}{}
		done.Go(func() {
			defer func() { <-slots }()
			if d, err := n.Agent.Arrive(ctx, *arrival); err == nil {
				end.Decision, end.Local = *d, true
			}
		})
	}
	done.Wait()
	a.Judge()
}

// NoteRemote says which decisions the nodes of the pods did not confirm.
func NoteRemote(a *explain.Answer) {
	for i := range a.Ends {
		if end := &a.Ends[i]; !end.Local && end.Node != "" {
			a.Notes = append(a.Notes, fmt.Sprintf("the decision for Pod %s is what another node knows of it; node %s, where it runs, was not asked or did not answer", end.Workload, end.Node))
		}
	}
}

// Describe asks the node of a pod, and all nodes about anything else. What only some nodes find wrong is said with their names.
func (all AskedNodes) Describe(ctx context.Context, q describe.Question) (*Described, error) {
	if q.Kind == describe.KindPod {
		return all.describePod(ctx, q)
	}
	// Of all descriptions one is kept, and of the others the problems: there may be many nodes.
	var (
		mu       sync.Mutex
		best     *describe.Description
		bestAt   int
		problems = make([][]describe.Problem, len(all))
		errs     = make([]error, len(all))
		slots    = make(chan struct{}, endsAtOnce)
		done     sync.WaitGroup
	)
	for i, n := range all {
		slots <- struct{}{}
		done.Go(func() {
			defer func() { <-slots }()
			d, err := n.Agent.Describe(ctx, q)
			mu.Lock()
			defer mu.Unlock()
			if errs[i] = err; err != nil {
				return
			}
			problems[i] = d.Problems
			if best == nil || knowsMore(d, best) || i < bestAt && !knowsMore(best, d) {
				best, bestAt = d, i
			}
		})
	}
	done.Wait()
	if best == nil {
		return nil, errs[0]
	}
	out := &Described{Node: all[bestAt].Name, Description: best}
	for i, n := range all {
		switch {
		case i == bestAt:
		case errs[i] != nil:
			out.Problems = append(out.Problems, DoesNotTell(n.Name, errs[i]))
		default:
			out.add(n.Name, problems[i])
		}
	}
	return out, nil
}

func (all AskedNodes) describePod(ctx context.Context, q describe.Question) (*Described, error) {
	node, d, err := first(all, func(n Asked) (*describe.Description, error) { return n.Describe(ctx, q) })
	if err != nil {
		return nil, err
	}
	out := &Described{Node: node, Description: d}
	if own, ok := all.at(d.Pod.Node); ok && !d.Pod.Local {
		better, err := own.Agent.Describe(ctx, q)
		if err == nil {
			return &Described{Node: own.Name, Description: better}, nil
		}
		out.Problems = append(out.Problems, describe.Problem{
			What: fmt.Sprintf("node %s of the pod does not tell, and node %s does not know all: %s", own.Name, node, err), Remedy: seeAgent,
		})
	}
	return out, nil
}

// DoesNotTell is the problem that a node does not answer.
func DoesNotTell(node string, err error) describe.Problem {
	return describe.Problem{What: "node " + node + " does not tell: " + err.Error(), Remedy: seeAgent}
}

// add takes over the problems that only another node finds.
func (d *Described) add(node string, problems []describe.Problem) {
	for _, p := range problems {
		if !slices.Contains(d.Problems, p) {
			d.Problems = append(d.Problems, describe.Problem{What: "node " + node + ": " + p.What, Remedy: p.Remedy})
		}
	}
}

// knowsMore reports whether a node serves a Gateway of which another one knows no certificate.
func knowsMore(a, b *describe.Description) bool {
	return a.Gateway != nil && b.Gateway != nil && a.Gateway.Identity != "" && a.Gateway.Certificate != nil && b.Gateway.Certificate == nil
}
