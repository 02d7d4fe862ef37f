package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/describe"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
)

// lastRefusals is how many of the last connections that were refused or failed are shown.
const lastRefusals = 5

// described is a description with what nodes saw fail.
type described struct {
	*api.Described
	Refusals []refusal `json:"refusals,omitempty"`
	local    bool      // asked of this machine's agent
}

// refusal is a flow that was refused or failed, and the node that saw it.
type refusal struct {
	Node string        `json:"node"`
	Flow *observe.Flow `json:"flow"`
}

func newDescribeCmd(run *string, now func() time.Time) *cobra.Command {
	var out output
	var namespace string
	r := reach{run: run}
	var server flowsServer
	cmd := &cobra.Command{
		Use:   "describe KIND NAMESPACE/NAME",
		Short: "Show what the mesh makes of a pod, a Service, a Gateway or a route, and what is wrong with it",
		Long: `Show what the mesh makes of an object: its mode, identity and certificate, the way that its connections take, the routes and
policies in effect and which rule wins, the last connections that were refused or failed, and what is wrong, with the remedy.

KIND is pod, service, gateway or route; route stands for an HTTPRoute, GRPCRoute, TLSRoute, TCPRoute or UDPRoute. A pod is
described by its own node, where a cluster is asked. With --server the flows API of the cluster is asked: you must be allowed to
list config.weft.io in the object's namespace, and of others' objects you see what your token may see.`,
		Example: `  weft describe pod shop/web-1
  weft describe service web -n shop
  weft describe route shop/canary
  weft describe gateway edge/public -o yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("name one object: weft describe KIND NAMESPACE/NAME, where KIND is pod, service, gateway or route")
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"pod", "service", "gateway", "route"}, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			q, err := describedObject(args[0], args[1], namespace)
			if err != nil {
				return err
			}
			d, err := describeObject(cmd.Context(), &r, &server, q, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			done, err := out.structured(cmd.OutOrStdout(), d)
			if err == nil && !done {
				err = printDescription(cmd.OutOrStdout(), d, now())
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace of the object, if its name has none")
	out.flag(cmd, "table", "json", "yaml")
	r.flags(cmd.Flags())
	server.flags(cmd.Flags())
	return cmd
}

func describedObject(kind, name, namespace string) (q describe.Question, err error) {
	if q.Kind, err = describe.ParseKind(kind); err != nil {
		return q, err
	}
	ns, rest, has := strings.Cut(name, "/")
	switch {
	case has && namespace != "" && ns != namespace:
		return q, fmt.Errorf("%q is of another namespace than -n %s", name, namespace)
	case !has:
		ns, rest = namespace, name
	}
	if ns == "" || rest == "" || strings.Contains(rest, "/") {
		return q, fmt.Errorf("%q is not of the form NAMESPACE/NAME; -n names a namespace too", name)
	}
	q.Name = model.Key(ns, rest)
	return q, nil
}

// describeObject asks this machine's agent, a cluster's agents, or the flows API.
func describeObject(ctx context.Context, r *reach, server *flowsServer, q describe.Question, complaints io.Writer) (*described, error) {
	out := &described{}
	if server.address != "" {
		return out, out.byServer(ctx, r, server, q, complaints)
	}
	if c := r.local(); c != nil {
		d, err := c.Describe(ctx, q)
		if err != nil {
			return nil, err
		}
		node, err := nodeName(ctx, c)
		out.Described, out.local = &api.Described{Node: node, Description: d}, true
		for _, fq := range refusalsOf(d) {
			err = errors.Join(err, c.Flows(ctx, fq, out.take(node)))
		}
		return out, errors.Join(err, out.lastOnly())
	}
	f, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	if out.Described, err = f.asked().Describe(ctx, q); err != nil {
		return nil, err
	}
	if p, ok := f.at(out.Node); ok && out.Pod != nil && out.Pod.Local {
		f.agents = []survey.Pod{p} // no other node sees its connections
	}
	for _, fq := range refusalsOf(out.Description) {
		take := out.take
		if _, err := f.lastFlows(ctx, fq, func(node string, e observe.Event) error { return take(node)(e) }, complaints); err != nil {
			return nil, err
		}
		complaints = io.Discard // said once
	}
	return out, out.lastOnly()
}

// byServer asks the flows API. What it does not say of flows, which need another right, is a complaint.
func (d *described) byServer(ctx context.Context, r *reach, server *flowsServer, q describe.Question, complaints io.Writer) (err error) {
	if d.Described, err = server.describe(ctx, r, api.DescribeQuestion{Question: q, Node: r.node}); err != nil {
		return err
	}
	for _, fq := range refusalsOf(d.Description) {
		filter, err := fq.Filter()
		if err != nil {
			return err
		}
		print := func(node string, e observe.Event) error { return d.take(node)(e) }
		if err := server.flows(ctx, r, fq, filter.Match, print, complaints); err != nil && !errors.Is(err, ErrUnhealthy) {
			fmt.Fprintf(complaints, "connections that were refused or failed are not shown: %s\n", err)
			break
		}
		complaints = io.Discard // said once
	}
	return d.lastOnly()
}

// refusalsOf returns the questions for what failed at an object: to it and from it.
func refusalsOf(d *describe.Description) []api.FlowQuery {
	failed := func(t observe.Terms) api.FlowQuery {
		t.Verdict = []string{string(observe.Refused), string(observe.Failed)}
		return api.FlowQuery{Limit: 2 * lastRefusals, Terms: t} // both ends of a connection report it
	}
	key := []string{d.Object.Key()}
	switch {
	case d.Pod != nil:
		return []api.FlowQuery{failed(observe.Terms{To: key}), failed(observe.Terms{From: key})}
	case d.Service != nil:
		return []api.FlowQuery{failed(observe.Terms{To: key})}
	case d.Gateway != nil:
		var out []api.FlowQuery
		if id := d.Gateway.Identity; id != "" {
			out = append(out, failed(observe.Terms{From: []string{string(id)}}))
		}
		var to []string
		for _, a := range d.Gateway.Addresses {
			to = append(to, a.String())
		}
		if len(to) > 0 {
			out = append(out, failed(observe.Terms{To: to}))
		}
		return out
	}
	return nil
}

// take keeps a flow that a node saw.
func (d *described) take(node string) func(observe.Event) error {
	return func(e observe.Event) error {
		if e.Flow != nil {
			d.Refusals = append(d.Refusals, refusal{node, e.Flow})
		}
		return nil
	}
}

// lastOnly keeps the last ones in the order of their time, what both ends report of a connection once.
func (d *described) lastOnly() error {
	all := d.Refusals
	slices.SortStableFunc(all, func(a, b refusal) int {
		return cmp.Or(a.Flow.Time.Compare(b.Flow.Time), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Flow.SeenAt, b.Flow.SeenAt))
	})
	all = slices.CompactFunc(all, func(a, b refusal) bool { return a.Node == b.Node && reflect.DeepEqual(a.Flow, b.Flow) }) // of a pod to itself
	d.Refusals = nil
	return paired(false, lastRefusals, func(node string, e observe.Event) error { return d.take(node)(e) }, func(take func(string, observe.Event) error) error {
		var err error
		for _, r := range all {
			err = errors.Join(err, take(r.Node, observe.Event{Flow: r.Flow}))
		}
		return err
	})
}
