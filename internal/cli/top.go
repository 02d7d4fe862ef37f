package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/servicemap"
)

func newTopCmd(run *string) *cobra.Command {
	var out output
	var server flowsServer
	var namespace, by string
	r := reach{run: run}
	measure, last := 5*time.Second, 20
	cmd := &cobra.Command{
		Use:   "top",
		Short: "List the workloads with the most traffic, errors or latency",
		Long: `List workloads, Gateways and Services by the traffic that comes to them, as weft edges counts it. P99 is the highest of those of
their callers. It is measured for --for, or for as long as somebody has looked at the map. With --server the flows API of the
cluster is asked, which shows the workloads of the namespaces whose flows your token may list.`,
		Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if _, err := servicemap.Top(&servicemap.Graph{}, "", by); err != nil {
				return fmt.Errorf("--by %w", err)
			}
			if last < 0 {
				return fmt.Errorf("--first %d must not be negative", last)
			}
			g, err := edges(cmd.Context(), &server, &r, measure)
			if err != nil {
				return err
			}
			loads, err := servicemap.Top(g, namespace, by)
			if err != nil {
				return err
			}
			if last > 0 {
				loads = loads[:min(len(loads), last)]
			}
			done, err := out.structured(cmd.OutOrStdout(), loads)
			if err == nil && !done && len(loads) > 0 {
				err = printTable(cmd.OutOrStdout(), loads, loadColumns, false)
			}
			if err == nil && len(loads) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "No traffic.")
			}
			if err != nil {
				return err
			}
			return missingEdges(cmd, g)
		},
	}
	out.flag(cmd, "table", "json", "yaml")
	r.flags(cmd.Flags())
	server.flags(cmd.Flags())
	f := cmd.Flags()
	f.StringVarP(&namespace, "namespace", "n", "", "only of this namespace")
	f.StringVar(&by, "by", "requests", "what to sort by: requests, errors, p99, connections, bytes, refused")
	choices(cmd, "by", "requests", "errors", "p99", "connections", "bytes", "refused")
	f.IntVar(&last, "first", last, "how many to show; 0 for all")
	f.DurationVar(&measure, "for", measure, "how long to measure")
	return cmd
}

var loadColumns = []column[servicemap.Load]{
	{head: "WORKLOAD", of: func(l servicemap.Load) string { return l.String() }},
	{head: "KIND", of: func(l servicemap.Load) string { return l.Kind }},
	{head: "CALLERS", of: func(l servicemap.Load) string { return fmt.Sprint(l.Callers) }},
	{head: "REQ/S", of: func(l servicemap.Load) string { return servicemap.Rate(l.Requests) }},
	{head: "ERR/S", of: func(l servicemap.Load) string { return servicemap.Rate(l.Errors) }},
	{head: "P99", of: func(l servicemap.Load) string { return quantile(l.P99) }},
	{head: "CONN/S", of: func(l servicemap.Load) string { return servicemap.Rate(l.Connections) }},
	{head: "REFUSED/S", of: func(l servicemap.Load) string { return servicemap.Rate(l.Refused) }},
	{head: "BYTES/S", of: func(l servicemap.Load) string { return size(uint64(l.Bytes)) }},
}
