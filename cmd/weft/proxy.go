package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/cli"
	"github.com/weft-mesh/weft/internal/proxy"
)

func newProxyCmd(run *string) *cobra.Command {
	cfg := proxy.Config{}
	var level slog.Level
	var tunnel bool
	var logFile string
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Run this node's Envoy and weft tunnel",
		Long: `Supervise this node's Envoy, apart from the agent: start it, restart it after a crash, hot-restart it on request.
Beside it weft tunnel carries the authenticated bytes of this node's pods, unless --tunnel=false is given.
A second weft proxy takes over from the first without dropping a connection; that is how either is upgraded.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.RunDir = *run
			if tunnel {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("find weft's own executable: %w", err)
				}
				cfg.Tunnel = []string{self, "tunnel", "--run", *run, "--log-level", level.String()}
			}
			if logFile != "" {
				var err error
				if cfg.LogFile, err = proxy.LogTo(logFile); err != nil {
					return err
				}
			}
			cfg.Log = slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			return proxy.Run(cmd.Context(), cfg)
		},
	}
	host, _ := os.Hostname()
	f := cmd.Flags()
	f.StringVar(&cfg.Node, "node", host, "name of this node")
	f.StringVar(&cfg.Envoy, "envoy", "", "Envoy's binary (default: $ENVOY, PATH, or beside weft)")
	f.StringVar(&cfg.CgroupRoot, "cgroup-root", "", "cgroup2 folder that holds this node's processes (default: the cgroup2 mount)")
	f.StringVar(&cfg.Cgroup, "cgroup", "", "Envoy's cgroup below the cgroup root (default weft-proxy)")
	f.IntVar(&cfg.Concurrency, "concurrency", 0, "Envoy's worker threads (default: one a CPU)")
	f.Uint64Var(&cfg.MemoryLimitBytes, "memory-limit", 1<<30, "bytes of heap past which Envoy refuses work")
	f.Uint64Var(&cfg.MaxConnections, "max-connections", proxy.DefaultMaxConnections, "connections past which Envoy refuses more")
	f.DurationVar(&cfg.DrainTime, "drain-time", 0, "time that connections get to end after their listener went (default 5s)")
	f.DurationVar(&cfg.ParentShutdownTime, "parent-shutdown-time", 0, "life of the old Envoy after a hot restart (default 5m)")
	f.DurationVar(&cfg.OverloadTime, "overload-time", 0, "how long Envoy may refuse work for lack of memory until it is replaced; -1s for ever (default 30s)")
	f.DurationVar(&cfg.OverloadInterval, "overload-interval", 0, "least time between two such replacements (default 1m)")
	f.StringVar(&cfg.LogLevel, "envoy-log-level", "", "trace, debug, info, warning, error or critical (default warning)")
	f.BoolVar(&cfg.InPod, "in-pod", false, "run in a pod of the host's PID namespace: Envoy outlives the pod, and the next pod takes it over")
	f.StringVar(&cfg.HealthSocket, "health-socket", "", "unix socket for weft proxy ready, in a folder that no other pod has")
	f.BoolVar(&tunnel, "tunnel", true, "also run weft tunnel; without it authenticated bytes go by Envoy to and from this node")
	f.StringVar(&logFile, "log-file", "", "file for the log, also Envoy's and weft tunnel's, of which 8 MiB are kept: FILE, and FILE.1 before it (default: standard error)")
	f.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	cmd.AddCommand(newProxyRestartCmd(run), newReadyCmd("proxy", "its Envoy is live"))
	return cmd
}

func newProxyRestartCmd(run *string) *cobra.Command {
	return &cobra.Command{
		Use:   "restart",
		Short: "Hot-restart Envoy: the new one takes the listening sockets, the old one drains",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := &proxy.Client{RunDir: *run}
			if err := c.Restart(cmd.Context()); err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Envoy %d serves, epoch %d\n", st.PID, st.Epoch)
			return err
		},
	}
}

// newReadyCmd asks a health socket, for the kubelet's probes.
func newReadyCmd(of, when string) *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "ready",
		Short: "Report whether the weft " + of + " of a health socket is ready: " + when,
		Args:  cli.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return proxy.Ready(cmd.Context(), socket) },
	}
	cmd.Flags().StringVar(&socket, "health-socket", "", "as given to weft "+of)
	if err := cmd.MarkFlagRequired("health-socket"); err != nil {
		panic(err) // the flag of the line before
	}
	return cmd
}
