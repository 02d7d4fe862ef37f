package cli

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/observe"
)

func newObserveCmd(run *string) *cobra.Command {
	var out output
	var p flowPrinter
	var since, until string
	var bothEnds bool
	r := reach{run: run}
	var server flowsServer
	q := api.FlowQuery{}
	cmd := &cobra.Command{
		Use:   "observe",
		Short: "Show connections as they end, authenticated ones as they begin too",
		Long: `Show connections as they end, authenticated ones as they begin too: the last ones, or with -f those that come.
What both ends report is one line; with --both-ends and in -o json it is a line each. -o wide and -o json say which end, the
identities and the labels. Where no agent runs on this machine and a kubeconfig is found, the nodes of the cluster are asked, or
the one that --node names. With --server the flows API of the cluster is asked, which shows what your token may see.

--from, --to and --peer take NAMESPACE/NAME of a pod or Service, NAMESPACE/ for all of it, NAME, an address, a CIDR, any of
these but a CIDR with :PORT, or a SPIFFE ID.

Each filter may have several values, with commas or by repeating it: one of them must fit. A value with a ! before it
must not fit.`,
		Example: `  weft observe -n shop --verdict refused,failed --since 10m
  weft observe --peer shop/web-1 --since 1h
  weft observe -f --to shop/web --status 5xx --path '/api/*'
  weft observe --from 'shop/,!shop/probe' --to '!:53' -o wide`,
		Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if err := flowTimes(&q, since, until, time.Now()); err != nil {
				return err
			}
			filter, err := q.Filter()
			if err != nil {
				return fmt.Errorf("--%w", err)
			}
			if q.Limit < 0 {
				return fmt.Errorf("--last %d must not be negative", q.Limit)
			}
			if (q.Follow || since != "") && !cmd.Flags().Changed("last") {
				q.Limit = 0
			}
			p.to(cmd.OutOrStdout(), out.format)
			shown := 0
			show := func(node string, e observe.Event) error {
				if e.Flow != nil && !filter.Match(e.Flow) {
					return nil // an agent of an earlier version knows fewer filters
				}
				shown++
				return p.print(node, e)
			}
			flows := func(show func(string, observe.Event) error) error {
				if server.address != "" {
					return server.flows(cmd.Context(), &r, q, filter.Match, show, cmd.ErrOrStderr())
				}
				return showFlows(cmd, &r, q, &p, show)
			}
			if bothEnds || out.format == "json" {
				err = flows(show)
			} else {
				err = oneLineEach(&q, show, flows)
			}
			if err == nil && shown == 0 && !q.Follow {
				fmt.Fprintln(cmd.ErrOrStderr(), "No flows among the last that nodes keep; -f waits for those that come.")
			}
			return err
		},
	}
	out.flag(cmd, "table", "wide", "json")
	r.flags(cmd.Flags())
	f := cmd.Flags()
	server.flags(f)
	f.BoolVarP(&q.Follow, "follow", "f", false, "wait for what comes")
	f.IntVar(&q.Limit, "last", 100, "how many of the last lines to show (with -f, --both-ends or -o json: reports); without it, -f shows none and --since all")
	f.StringVar(&since, "since", "", "only from this time on: a duration such as 5m, or a time such as 2026-11-28T12:00:00Z")
	f.StringVar(&until, "until", "", "only until this time")
	f.BoolVar(&bothEnds, "both-ends", false, "a line for each end of a connection that reports it; without it, with -f lines may come 2 s later")
	termFlags(f, &q.Terms)
	p.flags(f)
	flowChoices(cmd)
	return cmd
}

// oneLineEach shows the flows of a query that get hands over, those of both ends of a connection as one line.
func oneLineEach(q *api.FlowQuery, show func(string, observe.Event) error, get func(func(string, observe.Event) error) error) error {
	last := q.Limit
	if !q.Follow {
		q.Limit = min(last, math.MaxInt/2) * 2 // each of the last lines may be two reports
	}
	return paired(q.Follow, last, show, get)
}

// termFlags are the filters with several values.
func termFlags(f *pflag.FlagSet, t *observe.Terms) {
	f.StringSliceVarP(&t.Namespace, "namespace", "n", nil, "only where either end is in this namespace")
	f.StringSliceVar(&t.From, "from", nil, "only from here")
	f.StringSliceVar(&t.To, "to", nil, "only to there")
	f.StringSliceVar(&t.Peer, "peer", nil, "only where either end is this")
	f.StringSliceVar(&t.Verdict, "verdict", nil, "only forwarded, refused or failed")
	f.StringSliceVar(&t.Layer, "layer", nil, "only L4, L7 or mTLS")
	f.StringSliceVar(&t.Protocol, "protocol", nil, "only TCP, UDP, HTTP or DNS")
	f.StringSliceVar(&t.Method, "method", nil, "only requests with this method")
	f.StringSliceVar(&t.Status, "status", nil, "only requests answered so: 404, 5xx, 400-499")
	f.StringSliceVar(&t.Path, "path", nil, "only requests for this path: /api, or /api/* for all below it")
	f.StringSliceVar(&t.Query, "query", nil, "only questions to DNS for this name, or *.example.com for all below it")
	f.StringSliceVarP(&t.Label, "label", "l", nil, "only where the pod at either end has this label: KEY=VALUE, or KEY")
}

// flowChoices makes shells complete the filters that have few values.
func flowChoices(cmd *cobra.Command) {
	choices(cmd, "verdict", "forwarded", "refused", "failed")
	choices(cmd, "layer", "L4", "L7", "mTLS")
	choices(cmd, "protocol", "TCP", "UDP", "HTTP", "DNS")
}

// flowTimes reads --since and --until.
func flowTimes(q *api.FlowQuery, since, until string, now time.Time) (err error) {
	if q.Follow && until != "" {
		return errors.New("--until shows what was, and --follow what comes: give one of them")
	}
	for _, t := range []struct {
		flag, text string
		into       *time.Time
	}{{"since", since, &q.Since}, {"until", until, &q.Until}} {
		if t.text == "" {
			continue
		}
		if ago, derr := time.ParseDuration(t.text); derr == nil && ago >= 0 {
			*t.into = now.Add(-ago)
		} else if *t.into, err = time.Parse(time.RFC3339Nano, t.text); err != nil {
			return fmt.Errorf("--%s %q is neither a duration such as 5m nor a time such as 2026-11-28T12:00:00Z", t.flag, t.text)
		}
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && q.Until.Before(q.Since) {
		return errors.New("--until is before --since")
	}
	return nil
}

// showFlows prints the flows of this machine's agent, or of a cluster's.
func showFlows(cmd *cobra.Command, r *reach, q api.FlowQuery, p *flowPrinter, print func(string, observe.Event) error) error {
	if c := r.local(); c != nil {
		p.oneNode = true
		node, err := nodeName(cmd.Context(), c)
		if err != nil {
			return err
		}
		return c.Flows(cmd.Context(), q, func(e observe.Event) error { return print(node, e) })
	}
	f, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	p.oneNode = len(f.agents) == 1
	return f.flows(cmd.Context(), q, print, cmd.ErrOrStderr())
}
