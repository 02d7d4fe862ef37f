package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/observe"
)

func newObserveCmd(run *string) *cobra.Command {
	var out output
	r := reach{run: run}
	q := api.FlowQuery{}
	cmd := &cobra.Command{
		Use:   "observe",
		Short: "Show connections as they end, authenticated ones as they begin too",
		Long: `Show connections as they end, authenticated ones as they begin too: the last ones, or with -f those that come.
What both ends see is a line each; -o json says which end, and the identities. Times are in UTC. Where no agent runs on this machine and a
kubeconfig is found, the nodes of the cluster are asked, or the one that --node names.

--from and --to take NAMESPACE/NAME of a pod or Service, NAMESPACE/ for all of it, NAME, an address, a CIDR, any of
these but a CIDR with :PORT, or a SPIFFE ID.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if _, err := q.Filter(); err != nil {
				return fmt.Errorf("--%w", err)
			}
			if q.Follow && !cmd.Flags().Changed("last") {
				q.Limit = 0
			}
			shown := 0
			line := printer(cmd.OutOrStdout(), out.format)
			print := func(node string, e observe.Event) error { shown++; return line(node, e) }
			err := showFlows(cmd, &r, q, print)
			if err == nil && shown == 0 && !q.Follow {
				fmt.Fprintln(cmd.ErrOrStderr(), "No flows among the last that nodes keep; -f waits for those that come.")
			}
			return err
		},
	}
	out.flag(cmd, "table", "json")
	r.flags(cmd.Flags())
	f := cmd.Flags()
	f.BoolVarP(&q.Follow, "follow", "f", false, "wait for what comes")
	f.IntVar(&q.Limit, "last", 100, "how many of the last to show; with -f none unless given")
	f.StringVarP(&q.Namespace, "namespace", "n", "", "only where either end is in this namespace")
	f.StringVar(&q.From, "from", "", "only from here")
	f.StringVar(&q.To, "to", "", "only to there")
	f.StringVar(&q.Verdict, "verdict", "", "only forwarded, refused or failed")
	f.StringVar(&q.Layer, "layer", "", "only L4, L7 or mTLS")
	return cmd
}

// showFlows prints the flows of this machine's agent, or of a cluster's.
func showFlows(cmd *cobra.Command, r *reach, q api.FlowQuery, print func(string, observe.Event) error) error {
	if c := r.local(); c != nil {
		return c.Flows(cmd.Context(), q, func(e observe.Event) error { return print("", e) })
	}
	f, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	return f.flows(cmd.Context(), q, print, cmd.ErrOrStderr())
}

// printer prints events, with the node that saw them where there are several. It is called by one at a time.
func printer(w io.Writer, format string) func(node string, e observe.Event) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		return func(node string, e observe.Event) error {
			return enc.Encode(struct {
				Node string `json:"node,omitempty"`
				observe.Event
			}{node, e})
		}
	}
	return func(node string, e observe.Event) error {
		if node != "" {
			if _, err := fmt.Fprintf(w, "%s  ", printable(node)); err != nil {
				return err
			}
		}
		return printEvent(w, e)
	}
}

// printEvent prints one line. Lines come one by one, so columns are as wide as most need and not aligned over all.
func printEvent(w io.Writer, e observe.Event) error {
	if e.Lost > 0 {
		_, err := fmt.Fprintf(w, "-- %d flows were lost here --\n", e.Lost)
		return err
	}
	f := e.Flow
	if f == nil {
		return nil
	}
	to := f.Destination.String()
	if s := f.Destination.Service; s != "" && f.Destination.Workload != "" {
		to += " (" + s + ")"
	}
	line := fmt.Sprintf("%s  %-9s  %-4s  %s -> %s  %s", f.Time.UTC().Format("15:04:05.000"), f.Verdict, f.Layer, f.Source, to, details(f))
	_, err := fmt.Fprintln(w, strings.TrimRight(printable(line), " "))
	return err
}

func details(f *observe.Flow) string {
	var out []string
	if h := f.HTTP; h != nil {
		out = append(out, fmt.Sprintf("%s %s%s %d", h.Method, h.Host, h.Path, h.Status))
	}
	if f.Reason != "" {
		out = append(out, f.Reason)
	}
	switch {
	case f.Open:
		out = append(out, "opened")
	case f.Verdict == observe.Forwarded:
		out = append(out, fmt.Sprintf("%s out, %s in", size(f.Sent), size(f.Received)))
	}
	if f.Duration > 0 {
		out = append(out, "took "+round(f.Duration))
	}
	if f.RTT > 0 {
		out = append(out, "rtt "+round(f.RTT))
	}
	if f.Retransmits > 0 {
		out = append(out, fmt.Sprintf("%d retransmits", f.Retransmits))
	}
	return strings.Join(out, ", ")
}

func round(d time.Duration) string {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

func size(n uint64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
