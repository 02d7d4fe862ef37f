// Command cmd runs the project's own Kubernetes: up, install, down, reboot, status, kubectl and exec. See package cluster.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"

	"github.com/weft-mesh/weft/test/cluster"
)

const usage = `usage: go run ./test/cluster/cmd COMMAND
  up [-nodes N] [-bare]
                      build what is missing and start (2 nodes), and install Weft unless it is to be bare
  install             build Weft as it is now and install it, or upgrade to it
  down                take everything away
  reboot NODE         as by a power cut
  status              processes and nodes
  kubeconfig          the path of the administrator's kubeconfig
  kubectl ARGS...     as the administrator
  exec NODE ARGS...   a command in a node's namespaces
  build               only fill the cache of binaries
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil)), os.Args[1:])
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit): // the command has said why
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger, args []string) error {
	if len(args) == 0 {
		return errors.New("no command\n" + usage)
	}
	switch command, args := args[0], args[1:]; command {
	case "up":
		return up(ctx, log, args)
	case "install":
		return install(ctx, log)
	case "down":
		return cluster.Down(ctx)
	case "build":
		_, err := cluster.Build(ctx, log, cluster.Everything...)
		return err
	case "reboot":
		return reboot(ctx, log, args)
	case "status":
		return status(ctx, log)
	case "kubeconfig":
		c, err := cluster.Open(ctx, log)
		if err != nil {
			return err
		}
		fmt.Println(c.API.Kubeconfig)
		return nil
	case "kubectl":
		c, err := cluster.Open(ctx, log)
		if err != nil {
			return err
		}
		return attached(c.KubectlCommand(ctx, args...))
	case "exec":
		return execute(ctx, log, args)
	default:
		return fmt.Errorf("no command %q\n%s", command, usage)
	}
}

func up(ctx context.Context, log *slog.Logger, args []string) error {
	f := flag.NewFlagSet("up", flag.ContinueOnError)
	nodes := f.Int("nodes", 2, "number of nodes, 1 to 8")
	bare := f.Bool("bare", false, "without Weft")
	if err := f.Parse(args); err != nil {
		return err
	}
	c, err := cluster.Up(ctx, log, *nodes)
	if err != nil {
		return err
	}
	if !*bare {
		if err := c.InstallWeft(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("export KUBECONFIG=%s\n", c.API.Kubeconfig)
	return attached(c.KubectlCommand(ctx, "get", "nodes", "--output=wide"))
}

func install(ctx context.Context, log *slog.Logger) error {
	c, err := cluster.Open(ctx, log)
	if err != nil {
		return err
	}
	if err := c.InstallWeft(ctx); err != nil {
		return err
	}
	return attached(c.KubectlCommand(ctx, "--namespace=weft-system", "get", "pods", "--output=wide"))
}

func reboot(ctx context.Context, log *slog.Logger, args []string) error {
	if len(args) != 1 {
		return errors.New("want a node\n" + usage)
	}
	c, err := cluster.Open(ctx, log)
	if err != nil {
		return err
	}
	return c.RebootNode(ctx, args[0])
}

func status(ctx context.Context, log *slog.Logger) error {
	c, err := cluster.Open(ctx, log)
	if err != nil {
		return err
	}
	processes, err := c.Processes()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(processes)) {
		state := "runs"
		if !processes[name] {
			state = "has ended"
		}
		fmt.Printf("%-24s %s\n", name, state)
	}
	return attached(c.KubectlCommand(ctx, "get", "nodes", "--output=wide"))
}

func execute(ctx context.Context, log *slog.Logger, args []string) error {
	if len(args) < 2 {
		return errors.New("want a node and a command\n" + usage)
	}
	c, err := cluster.Open(ctx, log)
	if err != nil {
		return err
	}
	cmd, err := c.NodeCommand(ctx, args[0], args[1:]...)
	if err != nil {
		return err
	}
	return attached(cmd)
}

func attached(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
