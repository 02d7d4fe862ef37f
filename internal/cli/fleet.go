package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/describe"
	"github.com/weft-mesh/weft/internal/explain"
	"github.com/weft-mesh/weft/internal/kube/survey"
)

const (
	// askAtOnce is how many agents are asked at a time, askWithin the most that one of them may take.
	askAtOnce = 16
	askWithin = 15 * time.Second
)

// fleet is the agents of a cluster, reached through their pods.
type fleet struct {
	cluster   *survey.Cluster
	namespace string
	agents    []survey.Pod // the best of each node, by node
}

// newFleet takes the agents among pods that run: on each node one that is ready, else any.
func newFleet(c *survey.Cluster, namespace string, pods []survey.Pod) *fleet {
	f := &fleet{cluster: c, namespace: namespace}
	for _, p := range pods {
		if p.Component != survey.Agent || p.Node == "" {
			continue
		}
		at := slices.IndexFunc(f.agents, func(o survey.Pod) bool { return o.Node == p.Node })
		switch {
		case at < 0:
			f.agents = append(f.agents, p)
		case p.Ready:
			f.agents[at] = p
		}
	}
	slices.SortFunc(f.agents, func(a, b survey.Pod) int { return strings.Compare(a.Node, b.Node) })
	return f
}

// client asks the agent in a pod.
func (f *fleet) client(p survey.Pod) *api.Client {
	return api.NewClientBy("node "+p.Node, func(ctx context.Context) (net.Conn, error) {
		return f.cluster.DialAgent(ctx, f.namespace, p.Name)
	})
}

// at returns the agent of a node.
func (f *fleet) at(node string) (survey.Pod, bool) {
	i := slices.IndexFunc(f.agents, func(p survey.Pod) bool { return p.Node == node })
	if i < 0 {
		return survey.Pod{}, false
	}
	return f.agents[i], true
}

// asked are the agents as those who are asked about an object or a connection.
func (f *fleet) asked() api.AskedNodes {
	var out api.AskedNodes
	for _, p := range f.agents {
		out = append(out, api.AskedNode{Name: p.Node, Agent: fleetAgent{f, p}})
	}
	return out
}

// fleetAgent is the agent in a pod.
type fleetAgent struct {
	fleet *fleet
	pod   survey.Pod
}

// Explain implements api.Asked.
func (a fleetAgent) Explain(ctx context.Context, q explain.Question) (*explain.Answer, error) {
	return askOne(ctx, a, func(c *api.Client, ctx context.Context) (*explain.Answer, error) { return c.Explain(ctx, q) })
}

// Arrive implements api.Asked.
func (a fleetAgent) Arrive(ctx context.Context, q explain.Arrival) (*explain.Decision, error) {
	return askOne(ctx, a, func(c *api.Client, ctx context.Context) (*explain.Decision, error) {
		d, err := c.Arrive(ctx, q)
		return &d, err
	})
}

// Describe implements api.Asked.
func (a fleetAgent) Describe(ctx context.Context, q describe.Question) (*describe.Description, error) {
	return askOne(ctx, a, func(c *api.Client, ctx context.Context) (*describe.Description, error) { return c.Describe(ctx, q) })
}

func askOne[T any](ctx context.Context, a fleetAgent, do func(*api.Client, context.Context) (T, error)) (T, error) {
	got := ask(ctx, a.fleet, []survey.Pod{a.pod}, do)[0]
	return got.value, got.err
}

// answer is an agent's.
type answer[T any] struct {
	node  string
	value T
	err   error
}

// ask asks agents, some at a time, and gives their answers in the same order.
func ask[T any](ctx context.Context, f *fleet, agents []survey.Pod, do func(*api.Client, context.Context) (T, error)) []answer[T] {
	out := make([]answer[T], len(agents))
	slots := make(chan struct{}, askAtOnce)
	var all sync.WaitGroup
	for i, p := range agents {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			out[i].node = p.Node
			out[i].value, out[i].err = do(f.client(p), ctx)
			if errors.Is(ctx.Err(), context.DeadlineExceeded) && out[i].err != nil {
				out[i].err = fmt.Errorf("no answer within %s: %w", askWithin, out[i].err)
			}
		})
	}
	all.Wait()
	return out
}

// nodeName returns the name of the node that an agent is of.
func nodeName(ctx context.Context, c *api.Client) (string, error) {
	s, err := c.Status(ctx)
	return s.Agent.Node, err
}

// newRelayCmd makes what the other side runs in an agent's pod.
func newRelayCmd(run *string) *cobra.Command {
	return &cobra.Command{
		Use:    survey.Relay,
		Short:  "Join standard input and output to the agent's socket, for weft on another machine",
		Hidden: true,
		Args:   NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return survey.ServeRelay(cmd.Context(), filepath.Join(*run, api.SocketName), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
