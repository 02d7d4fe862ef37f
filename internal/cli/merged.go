package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/observe"
)

// followAtOnce is the most nodes whose flows are followed: each is a connection that stays.
const followAtOnce = 64

// listing is a list, and the nodes that gave it. Programs get a list of these, whoever was asked.
type listing[T any] struct {
	Nodes []string `json:"nodes"`
	Items []T      `json:"items"`
	text  []byte
}

// listings are the lists of a cluster, those that are alike once, and the nodes that gave none.
type listings[T any] struct {
	all    []listing[T]
	failed []answer[[]T]
	// cut says of how many rows an answer was cut off; nil for none.
	cut []string
}

// lists asks for a list where server or r says. It is an error if nobody answers.
func lists[T any](ctx context.Context, r *reach, server *flowsServer, what, namespace, name string) (*listings[T], error) {
	if server.address != "" {
		return serverLists[T](ctx, r, server, api.Question{What: what, Namespace: namespace, Name: name, Node: r.node})
	}
	get := func(c *api.Client, ctx context.Context) ([]T, error) {
		return api.List[T](ctx, c, what, namespace, name)
	}
	if c := r.local(); c != nil {
		list, err := get(c, ctx)
		if err != nil {
			return nil, err
		}
		node, err := nodeName(ctx, c)
		return &listings[T]{all: []listing[T]{{Nodes: []string{node}, Items: list}}}, err
	}
	f, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	out := &listings[T]{}
	for _, a := range ask(ctx, f, f.agents, get) {
		if a.err != nil {
			out.failed = append(out.failed, a)
			continue
		}
		text, err := json.Marshal(a.value)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(out.all, func(l listing[T]) bool { return bytes.Equal(l.text, text) })
		if at < 0 {
			at = len(out.all)
			out.all = append(out.all, listing[T]{Items: a.value, text: text})
		}
		out.all[at].Nodes = append(out.all[at].Nodes, a.node)
	}
	if len(out.all) == 0 {
		return nil, out.failed[0].err
	}
	return out, nil
}

// show prints lists; nothing is what is said where there is nothing in them.
func (l *listings[T]) show(cmd *cobra.Command, out *output, nothing string, table func(io.Writer, []T, bool) error) error {
	w := cmd.OutOrStdout()
	for _, a := range l.failed {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s does not answer: %s\n", printable(a.node), printable(a.err.Error()))
	}
	for _, c := range l.cut {
		fmt.Fprintln(cmd.ErrOrStderr(), printable(c))
	}
	for i := range l.all {
		l.all[i].Items = slices.Concat([]T{}, l.all[i].Items) // [] and not null
	}
	done, err := out.structured(w, l.all)
	if err == nil && !done {
		err = l.tables(cmd, nothing, func(w io.Writer, list []T) error { return table(w, list, out.format == "wide") })
	}
	if err == nil && len(l.failed) > 0 {
		err = ErrUnhealthy
	}
	return err
}

// tables prints the lists, once where they look alike: a table does not show all that a list holds.
func (l *listings[T]) tables(cmd *cobra.Command, nothing string, table func(io.Writer, []T) error) error {
	type printed struct {
		nodes []string
		text  string
	}
	var all []printed
	for _, list := range l.all {
		var text bytes.Buffer
		if len(list.Items) > 0 {
			if err := table(&text, list.Items); err != nil {
				return err
			}
		}
		at := slices.IndexFunc(all, func(p printed) bool { return p.text == text.String() })
		if at < 0 {
			at = len(all)
			all = append(all, printed{text: text.String()})
		}
		all[at].nodes = append(all[at].nodes, list.Nodes...)
	}
	w := cmd.OutOrStdout()
	for i, p := range all {
		if len(all) > 1 {
			slices.Sort(p.nodes)
			fmt.Fprintf(w, "%s# %s\n", strings.Repeat("\n", min(i, 1)), printable(strings.Join(p.nodes, ", ")))
		}
		if p.text == "" {
			fmt.Fprintln(cmd.ErrOrStderr(), nothing)
			continue
		}
		if _, err := io.WriteString(w, p.text); err != nil {
			return err
		}
	}
	return nil
}

// seen is an event, and the node that saw it.
type seen struct {
	node string
	observe.Event
}

// flows prints the flows of all agents: the last ones in the order of their time, then those that come as they do.
func (f *fleet) flows(ctx context.Context, q api.FlowQuery, print func(string, observe.Event) error, complaints io.Writer) error {
	if len(f.agents) == 1 {
		p := f.agents[0]
		return f.client(p).Flows(ctx, q, func(e observe.Event) error { return print(p.Node, e) })
	}
	if q.Follow && len(f.agents) > followAtOnce {
		return fmt.Errorf("%d nodes are too many to follow at once (%d): name one by --node", len(f.agents), followAtOnce)
	}
	missing, err := f.lastFlows(ctx, q, print, complaints)
	switch {
	case err != nil:
		return err
	case !q.Follow:
		return missing
	}
	return f.follow(ctx, q, print, complaints)
}

// lastFlows prints what is kept. missing is ErrUnhealthy if a node did not answer.
func (f *fleet) lastFlows(ctx context.Context, q api.FlowQuery, print func(string, observe.Event) error, complaints io.Writer) (missing, err error) {
	if q.Follow && q.Limit == 0 && q.Since.IsZero() {
		return nil, nil
	}
	q.Follow = false
	last := func(c *api.Client, ctx context.Context) (out []observe.Event, err error) {
		err = c.Flows(ctx, q, func(e observe.Event) error { out = append(out, e); return nil })
		return out, err
	}
	answers := ask(ctx, f, f.agents, last)
	for _, a := range answers {
		if a.err != nil {
			fmt.Fprintf(complaints, "%s does not answer, its flows are missing: %s\n", printable(a.node), printable(a.err.Error()))
			missing = ErrUnhealthy
		}
	}
	for _, s := range inOrder(answers, q.Limit) {
		if err := print(s.node, s.Event); err != nil {
			return missing, err
		}
	}
	return missing, nil
}

// inOrder returns the last flows of all nodes in the order of their time, at most limit (0: all). What a node lost comes before the flow
// that follows it there, or at the end.
func inOrder(answers []answer[[]observe.Event], limit int) []seen {
	type flow struct {
		seen
		lost uint64 // before it
	}
	var flows []flow
	var ends []seen
	for _, a := range answers {
		var lost uint64
		for _, e := range a.value {
			lost += e.Lost
			if e.Flow != nil {
				flows = append(flows, flow{seen{a.node, observe.Event{Flow: e.Flow}}, lost})
				lost = 0
			}
		}
		if lost > 0 {
			ends = append(ends, seen{a.node, observe.Event{Lost: lost}})
		}
	}
	slices.SortStableFunc(flows, func(a, b flow) int { return a.Flow.Time.Compare(b.Flow.Time) })
	if limit > 0 {
		flows = flows[max(0, len(flows)-limit):]
	}
	var out []seen
	for _, f := range flows {
		if f.lost > 0 {
			out = append(out, seen{f.node, observe.Event{Lost: f.lost}})
		}
		out = append(out, f.seen)
	}
	return append(out, ends...)
}

// follow prints what comes from all nodes until ctx ends, or nobody is left.
func (f *fleet) follow(ctx context.Context, q api.FlowQuery, print func(string, observe.Event) error, complaints io.Writer) error {
	q.Limit, q.Since = 0, time.Time{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	var failed error
	for _, p := range f.agents {
		all.Go(func() {
			err := f.client(p).Flows(ctx, q, func(e observe.Event) error {
				mu.Lock()
				defer mu.Unlock()
				if err := print(p.Node, e); err != nil {
					failed = err
					cancel()
					return err
				}
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			if ctx.Err() == nil {
				why := "its agent ended"
				if err != nil {
					why = err.Error()
				}
				fmt.Fprintf(complaints, "%s is followed no more: %s\n", printable(p.Node), printable(why))
			}
		})
	}
	all.Wait()
	if failed == nil && ctx.Err() == nil {
		return ErrUnhealthy
	}
	return failed
}
