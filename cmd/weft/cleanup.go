package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/agent"
	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/cli"
	"github.com/weft-mesh/weft/internal/cni"
	"github.com/weft-mesh/weft/internal/hostaddr"
	"github.com/weft-mesh/weft/internal/proxy"
)

const (
	// proxyEnds bounds the wait for Envoy's connections to drain.
	proxyEnds = 30 * time.Second
	// cleanupRetry lies between attempts of a cleanup that stays.
	cleanupRetry = 2 * time.Second
)

// cleanup takes the mesh off a node.
type cleanup struct {
	run, state      string
	path            datapath.Config
	confDir, binDir string
}

func newCleanupCmd(run *string) *cobra.Command {
	var c cleanup
	var stay bool
	var health string
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Take the mesh off this node: Envoy, eBPF programs, rules in pods",
		Long: `Take the mesh off this node after its agent has ended: stop weft proxy and its Envoy, detach the eBPF programs and
remove their maps, undo what was set up in pods, take the CNI plugin out of the network configurations, and remove the
files of the run directory and the workloads' keys. A certificate authority of this node's own, in --state, stays.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.run = *run
			if stay {
				return c.stay(cmd.Context(), health)
			}
			return c.do(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.state, "state", stateDir, "as given to weft agent")
	f.StringVar(&c.path.PinDir, "pins", "", "as given to weft agent")
	f.StringVar(&c.path.ProxyCgroup, "proxy-cgroup", "", "as given to weft agent")
	f.StringVar(&c.path.CgroupRoot, "cgroup-root", "", "as given to weft agent")
	f.StringVar(&c.confDir, "cni-conf-dir", cniConfDir, "as given to weft agent")
	f.StringVar(&c.binDir, "cni-bin-dir", cniBinDir, "as given to weft agent")
	f.BoolVar(&stay, "stay", false, "as a DaemonSet's pod: try until it is done, then stay")
	f.StringVar(&health, "health-address", "127.0.0.1:15024", "with --stay: address and port of /readyz, which succeeds when it is done")
	return cmd
}

// agentRuns is why a node is left alone.
type agentRuns struct{ api.Agent }

func (a *agentRuns) Error() string {
	return fmt.Sprintf("the agent still runs, pid %d: end it first, or it puts everything back", a.PID)
}

// do does it once. What can be done is, whatever else fails.
func (c *cleanup) do(ctx context.Context) error {
	if st, err := api.NewClient(c.run).Status(ctx); err == nil {
		return &agentRuns{st.Agent}
	}
	uninstalled := cni.Uninstall(c.confDir, c.binDir) // first, or pods would wait for what is taken away
	if err := c.endProxy(ctx); err != nil {
		return errors.Join(uninstalled, err)
	}
	if err := errors.Join(uninstalled, datapath.Detach(c.path)); err != nil {
		return err
	}
	if err := hostaddr.Remove(); err != nil {
		return err
	}
	if err := agent.Forget(c.run, c.state); err != nil {
		return err
	}
	return errors.Join(removeFolder(c.run), removeFolder(c.state))
}

// removeFolder removes an empty folder, unless others have something there, or it is a mount, in a pod on a file system
// that cannot be written.
func removeFolder(dir string) error {
	err := os.Remove(dir)
	for _, fine := range []error{fs.ErrNotExist, syscall.ENOTEMPTY, syscall.EBUSY, syscall.EROFS} {
		if errors.Is(err, fine) {
			return nil
		}
	}
	return err
}

// endProxy ends the supervisor, if one runs, and Envoy.
func (c *cleanup) endProxy(ctx context.Context) error {
	if err := stopProxy(ctx, &proxy.Client{RunDir: c.run}); err != nil {
		return err
	}
	return proxy.End(ctx, proxy.Config{RunDir: c.run, CgroupRoot: c.path.CgroupRoot, Cgroup: c.path.ProxyCgroup, Log: slog.Default()})
}

// stay does it until it succeeds, tells so, and waits for ctx. An agent that began later is of an installation that came
// after this cleanup, which was left behind: to wait for its end would be to take the mesh off at the next upgrade.
func (c *cleanup) stay(ctx context.Context, address string) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	done := make(chan struct{})
	stop, err := serveReady(address, done)
	if err != nil {
		return err
	}
	defer stop()
	begun := time.Now()
	for {
		err := c.do(ctx)
		if err == nil {
			break
		}
		if a := (*agentRuns)(nil); errors.As(err, &a) && a.Started.After(begun) {
			log.Error("Weft was installed again: this node is left as it is; remove what is left of the cleanup, "+
				"kubectl -n weft-system delete daemonset weft-cleanup", "agent", a.PID, "version", a.Version)
			<-ctx.Done()
			return nil
		}
		log.Warn("the mesh is not off this node yet; it is tried again", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(cleanupRetry):
		}
	}
	log.Info("the mesh is off this node")
	close(done)
	<-ctx.Done()
	return nil
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
	if st.InPod {
		return fmt.Errorf("weft proxy still runs in a pod, pid %d: delete the DaemonSet weft-proxy first", st.Supervisor)
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
