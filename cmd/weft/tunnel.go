package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weft-mesh/weft/internal/cli"
	"github.com/weft-mesh/weft/tunnel"
)

// tunnelMemory is the heap that makes the garbage collector of weft tunnel work harder.
const tunnelMemory = 512 << 20

func newTunnelCmd(run *string) *cobra.Command {
	var level slog.Level
	cmd := &cobra.Command{
		Use:    "tunnel",
		Short:  "Carry the authenticated bytes of this node's pods; weft proxy starts it",
		Hidden: true,
		Args:   cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Who reads the log may end before this process.
			signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
			debug.SetMemoryLimit(tunnelMemory)
			n := tunnel.New(filepath.Join(*run, tunnel.SocketName), slog.New(&envoyLog{out: os.Stderr, level: level}))
			drain := make(chan os.Signal, 1)
			signal.Notify(drain, syscall.SIGUSR1)
			go func() {
				<-drain
				n.Drain()
			}()
			return n.Run(cmd.Context())
		},
	}
	cmd.Flags().TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	return cmd
}

// envoyLog writes "level<tab>logger<tab>message", the form in which weft proxy reads the logs of its processes.
type envoyLog struct {
	out   io.Writer
	level slog.Level
	attrs string
}

func (l *envoyLog) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level }

func (l *envoyLog) Handle(_ context.Context, r slog.Record) error {
	level := "debug"
	switch {
	case r.Level >= slog.LevelError:
		level = "error"
	case r.Level >= slog.LevelWarn:
		level = "warning"
	case r.Level >= slog.LevelInfo:
		level = "info"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\ttunnel\t%s%s", level, r.Message, l.attrs)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%q", a.Key, a.Value)
		return true
	})
	_, err := io.WriteString(l.out, strings.ReplaceAll(b.String(), "\n", " ")+"\n")
	return err
}

func (l *envoyLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *l
	for _, a := range attrs {
		n.attrs += fmt.Sprintf(" %s=%q", a.Key, a.Value)
	}
	return &n
}

func (l *envoyLog) WithGroup(string) slog.Handler { return l }
