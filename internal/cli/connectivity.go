package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/connectivity"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/observe"
)

// cleanWithin bounds the removal of what the test made, after an interruption too.
const cleanWithin = 2 * time.Minute

// connectivityTest is weft connectivity test.
type connectivityTest struct {
	out     output
	cluster clusterFlags
	nodes   []string
	keep    bool
	within  time.Duration
	w       io.Writer
	results []connectivityResult
}

// connectivityResult is a case as JSON.
type connectivityResult struct {
	Group  string `json:"group"`
	Name   string `json:"name"`
	From   string `json:"from"`
	URL    string `json:"url"`
	Wanted string `json:"wanted"`
	Error  string `json:"error,omitempty"`
	TookMS int64  `json:"tookMs"`
}

func newConnectivityCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connectivity",
		Short: "Test in a cluster every way that a connection may take",
		Args:  subcommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConnectivityTestCmd())
	return cmd
}

func newConnectivityTestCmd() *cobra.Command {
	var c connectivityTest
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Deploy clients and servers, test every way between them, and remove them",
		Long: `Deploy clients and servers in the namespaces ` + connectivity.Plain + ` and ` + connectivity.Strict + `, on two nodes where there are two, and try every way:
pod to pod and to Services by the kernel, from a node, by names in DNS, by routes, authenticated, refused by a mode and by a policy, and by a
Gateway if there is an AddressPool. Then remove all of it. It takes one to three minutes.

You need the rights to make namespaces and what is in them, and to create pods/exec. The exit status is 1 if a case failed.`,
		Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.out.check(); err != nil {
				return err
			}
			c.w = cmd.OutOrStdout()
			return c.run(cmd.Context(), cmd.ErrOrStderr())
		},
	}
	c.out.flag(cmd, "table", "json", "yaml")
	c.cluster.flags(cmd.Flags())
	f := cmd.Flags()
	f.StringSliceVar(&c.nodes, "nodes", nil, "the two nodes to use (default: the first two whose agents are ready)")
	f.BoolVar(&c.keep, "keep", false, "leave the namespaces there, to look at what failed")
	f.DurationVar(&c.within, "timeout", 15*time.Minute, "of the whole test")
	return cmd
}

func (c *connectivityTest) run(ctx context.Context, notes io.Writer) error {
	if !c.cluster.known() {
		return errors.New("no cluster is known: name one by --kubeconfig")
	}
	s, err := survey.Open(c.cluster.Options)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.within)
	defer cancel()
	t, err := c.test(ctx, s, notes)
	if err != nil {
		return err
	}
	failed, err := t.Run(ctx)
	if !c.keep {
		err = errors.Join(err, c.clean(ctx, t))
	}
	if err != nil {
		return err
	}
	done, err := c.out.structured(c.w, c.results)
	if err != nil || done && failed == 0 {
		return err
	}
	if !done {
		fmt.Fprintf(c.w, "%d of %d are as they must be\n", len(c.results)-failed, len(c.results))
	}
	if failed > 0 {
		return ErrUnhealthy
	}
	return nil
}

// clean removes what the test made, even if the test was interrupted.
func (c *connectivityTest) clean(ctx context.Context, t *connectivity.Test) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanWithin)
	defer cancel()
	t.Note("removing the namespaces %s and %s", connectivity.Plain, connectivity.Strict)
	return t.Clean(ctx)
}

// test finds out what a run needs.
func (c *connectivityTest) test(ctx context.Context, s *survey.Cluster, notes io.Writer) (*connectivity.Test, error) {
	i, err := s.Installation(ctx, c.cluster.namespace)
	if err != nil {
		return nil, err
	}
	f := newFleet(s, c.cluster.namespace, i.Pods)
	t := &connectivity.Test{
		Cluster: s, Done: c.done,
		Note:          func(format string, args ...any) { fmt.Fprintf(notes, format+"\n", args...) },
		Authenticated: f.authenticated,
	}
	for _, p := range i.Parts {
		if p.Kind == "DaemonSet" && strings.HasSuffix(p.Name, survey.Agent) {
			t.Image = p.Image
		}
	}
	if t.Image == "" {
		return nil, fmt.Errorf("Weft is not installed in namespace %s; see weft check", c.cluster.namespace)
	}
	if t.Nodes, err = c.place(f); err != nil {
		return nil, err
	}
	t.GatewayClass, err = gatewayClass(ctx, s, i.Classes, t.Note)
	return t, err
}

// place chooses the nodes.
func (c *connectivityTest) place(f *fleet) (nodes [2]string, err error) {
	var ready []string
	for _, p := range f.agents {
		if p.Ready {
			ready = append(ready, p.Node)
		}
	}
	for _, n := range c.nodes {
		if !slices.Contains(ready, n) {
			return nodes, fmt.Errorf("node %s has no agent that is ready; there are %s", n, strings.Join(ready, ", "))
		}
	}
	if len(c.nodes) > 0 {
		ready = c.nodes
	}
	if len(ready) == 0 {
		return nodes, errors.New("no node has an agent that is ready; see weft check")
	}
	return [2]string{ready[0], ready[min(1, len(ready)-1)]}, nil
}

// gatewayClass returns the mesh's class, or "" if no Gateway would get an address.
func gatewayClass(ctx context.Context, s *survey.Cluster, all []survey.Class, note func(string, ...any)) (string, error) {
	pool, err := s.HasAddressPool(ctx)
	if err != nil {
		return "", err
	}
	if !pool {
		note("Gateways are not tried: there is no AddressPool")
		return "", nil
	}
	for _, class := range all {
		if class.Accepted && strings.HasPrefix(class.Controller, "weft.io/") {
			return class.Name, nil
		}
	}
	note("Gateways are not tried: no GatewayClass of Weft is accepted")
	return "", nil
}

// authenticated looks for a flow with the identities of both pods.
func (f *fleet) authenticated(ctx context.Context, from, to string) error {
	q := api.FlowQuery{Limit: 20, Terms: observe.Terms{From: []string{from}, To: []string{to}, Verdict: []string{string(observe.Forwarded)}}}
	seen := false
	_, err := f.lastFlows(ctx, q, func(_ string, e observe.Event) error {
		seen = seen || e.Flow.Source.Identity != "" && e.Flow.Destination.Identity != ""
		return nil
	}, io.Discard)
	if err == nil && !seen {
		err = fmt.Errorf("it was answered, and no node has seen an authenticated connection from %s to %s", from, to)
	}
	return err
}

func (c *connectivityTest) done(r connectivity.Result) {
	out := connectivityResult{Group: r.Group, Name: r.Name, From: r.From, URL: r.URL, Wanted: r.Want.String(), TookMS: r.Took.Milliseconds()}
	mark := "ok  "
	if r.Err != nil {
		mark, out.Error = "FAIL", r.Err.Error()
	}
	c.results = append(c.results, out)
	if c.out.format != "table" {
		return
	}
	fmt.Fprintf(c.w, "%s  %-8s %-36s %s\n", mark, r.Group, r.Name, r.Want)
	if r.Err != nil {
		fmt.Fprintf(c.w, "      %s to %s: %s\n", r.From, r.URL, printable(out.Error))
	}
}
