// Package cli holds the user's commands. status, config, proxy-config, observe, map, edges, top, explain, check, sysdump and
// version look at a node or a cluster: they ask agents (package internal/api), this node's on its socket, those of a cluster
// in their pods. analyze and translate read manifests (package internal/analyze), and analyze the objects of a cluster. The commands that run something are in
// cmd/weft.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Options say what is built.
type Options struct {
	// Version is that of the build; "" takes what the Go tool recorded.
	Version string
	// Envoy is the version that the build is made for.
	Envoy string
}

// DefaultRun is the run directory where --run says nothing else.
const DefaultRun = "/run/weft"

// Root is the weft command with the user's commands below it.
type Root struct {
	*cobra.Command
	// Run is the value of --run, once the flags are parsed.
	Run *string
}

// ErrUnhealthy makes the exit status 1; what is wrong has been printed already.
var ErrUnhealthy = errors.New("something is not healthy")

// New makes the root command. Add further commands to it before it is executed.
func New(o Options) *Root { return newRoot(o, time.Now) }

func newRoot(o Options, now func() time.Time) *Root {
	cmd := &cobra.Command{
		Use:           "weft",
		Short:         "A service mesh without sidecars",
		Version:       Version(o.Version),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.SetVersionTemplate("weft {{.Version}}\n")
	cmd.SetFlagErrorFunc(flagError)
	r := &Root{Command: cmd, Run: new(string)}
	cmd.PersistentFlags().StringVar(r.Run, "run", DefaultRun, "folder of the node's sockets")
	cmd.AddCommand(newStatusCmd(r.Run, now), newConfigCmd(r.Run, now), newProxyConfigCmd(r.Run), newObserveCmd(r.Run), newMapCmd(r.Run), newEdgesCmd(r.Run), newTopCmd(r.Run), newExplainCmd(r.Run), newDescribeCmd(r.Run, now), newCheckCmd(now), newConnectivityCmd(), newAnalyzeCmd(), newTranslateCmd(),
		newSysdumpCmd(o, r.Run, now), newVersionCmd(o), newRelayCmd(r.Run))
	return r
}

// Main runs the command until it ends or the process is told to stop, and gives the exit status.
func (r *Root) Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return exitStatus(ctx, r.ExecuteContext(ctx), os.Stderr)
}

// exitStatus returns that of a command, and prints its error.
func exitStatus(ctx context.Context, err error, errs io.Writer) int {
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return interrupted // who pressed Ctrl-C knows
	case !errors.Is(err, ErrUnhealthy):
		fmt.Fprintf(errs, "weft: %v%s\n", err, asRoot(err, os.Geteuid()))
	}
	return 1
}

// interrupted is the exit status of a command that was told to stop before its end, as shells have it (128 and SIGINT).
const interrupted = 130

// asRoot adds what to do about an error that a user other than root gets for not being root.
func asRoot(err error, uid int) string {
	if uid == 0 || !errors.Is(err, fs.ErrPermission) {
		return ""
	}
	return "; it needs root, for example by sudo"
}
