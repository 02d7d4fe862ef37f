package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/cli"
	"github.com/weft-mesh/weft/internal/demo"
	"github.com/weft-mesh/weft/internal/demo/workload"
)

// newDemoCmds gives demo and the two hidden commands that run in its pods and in those of examples/.
func newDemoCmds() []*cobra.Command {
	return []*cobra.Command{newDemoCmd(), newDemoServerCmd(), newDemoClientCmd()}
}

func newDemoCmd() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the mesh on this machine: a node with pods, the examples, and measured figures",
		Long: `Start a node with pods on this machine, apply the examples, and measure what they show: each line passes or fails,
and the exit status is 1 if one fails. Then it stays up, for you to try, until Ctrl-C takes everything away.

Pods are network namespaces; nothing outside them and the node's own cgroups is changed. It needs root.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out = cmd.OutOrStdout()
			err := demo.Run(cmd.Context(), o)
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&o.Exit, "exit", false, "end after the figures")
	return cmd
}

func newDemoServerCmd() *cobra.Command {
	var name, listen string
	cmd := &cobra.Command{
		Use:    "demo-server",
		Short:  "The server of the examples' Pods: answers with its name",
		Hidden: true,
		Args:   cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload.Serve(cmd.Context(), name, listen)
		},
	}
	cmd.Flags().StringVar(&name, "name", "server", "what it calls itself in X-Served-By")
	cmd.Flags().StringVar(&listen, "listen", ":8080", "address and port")
	return cmd
}

func newDemoClientCmd() *cobra.Command {
	var o workload.ClientOptions
	var idle bool
	var output string
	cmd := &cobra.Command{
		Use:    "demo-client URL",
		Short:  "The client of the examples' Pods: counts who answers",
		Hidden: true,
		Args:   cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if idle {
				<-cmd.Context().Done()
				return nil
			}
			if len(args) == 0 {
				return errors.New("which URL?")
			}
			o.URL, o.JSON = args[0], output == "json"
			if o.Duration > 0 && !cmd.Flags().Changed("requests") {
				o.Requests = 0
			}
			return workload.Call(cmd.Context(), cmd.OutOrStdout(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&idle, "idle", false, "send nothing, wait: keeps a Pod there to call from")
	f.IntVarP(&o.Requests, "requests", "n", 1, "how many")
	f.DurationVar(&o.Duration, "duration", time.Duration(0), "send for so long instead")
	f.Float64Var(&o.Rate, "rate", 0, "requests a second (default: as fast as answers come)")
	f.IntVarP(&o.Connections, "connections", "c", 1, "how many at once")
	f.BoolVar(&o.NewConnections, "new-connections", false, "a connection for each request")
	f.StringVar(&o.Host, "host", "", "Host header (default: the URL's)")
	f.DurationVar(&o.Timeout, "timeout", 0, "of one request (default 5s)")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}
