package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/cni"
	"github.com/weft-mesh/weft/internal/proxy"
)

// proxyEnds bounds the wait for Envoy's connections to drain.
const proxyEnds = 30 * time.Second

func newCleanupCmd(run *string) *cobra.Command {
	var cfg datapath.Config
	var confDir, binDir string
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Take the mesh off this node: Envoy, eBPF programs, rules in pods",
		Long: `Take the mesh off this node after its agent has ended: stop weft proxy and its Envoy, detach the eBPF programs and
remove their maps, undo what was set up in pods, and take the CNI plugin out of the network configurations. The
certificate authority in --state stays.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if st, err := api.NewClient(*run).Status(cmd.Context()); err == nil {
				return fmt.Errorf("the agent still runs, pid %d: end it first, or it puts everything back", st.Agent.PID)
			}
			uninstalled := cni.Uninstall(confDir, binDir) // first, or pods would wait for what is taken away
			if err := stopProxy(cmd.Context(), &proxy.Client{RunDir: *run}); err != nil {
				return errors.Join(uninstalled, err)
			}
			return errors.Join(uninstalled, datapath.Detach(cfg))
		},
	}
	cmd.Flags().StringVar(&cfg.PinDir, "pins", "", "as given to weft agent")
	cmd.Flags().StringVar(&cfg.ProxyCgroup, "proxy-cgroup", "", "as given to weft agent")
	cmd.Flags().StringVar(&cfg.CgroupRoot, "cgroup-root", "", "as given to weft agent")
	cmd.Flags().StringVar(&confDir, "cni-conf-dir", cniConfDir, "as given to weft agent")
	cmd.Flags().StringVar(&binDir, "cni-bin-dir", cniBinDir, "as given to weft agent")
	return cmd
}

// stopProxy ends the supervisor, which ends Envoy, and waits until it is gone.
func stopProxy(ctx context.Context, c *proxy.Client) error {
	ctx, cancel := context.WithTimeout(ctx, proxyEnds)
	defer cancel()
	st, err := c.Status(ctx)
	if errors.Is(err, proxy.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := syscall.Kill(st.Supervisor, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end weft proxy, pid %d: %w", st.Supervisor, err)
	}
	for syscall.Kill(st.Supervisor, 0) == nil {
		select {
		case <-ctx.Done():
			return fmt.Errorf("weft proxy, pid %d, does not end within %s", st.Supervisor, proxyEnds)
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}
