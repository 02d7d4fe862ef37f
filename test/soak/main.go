// Soak puts mixed load on authenticated connections of one node for a long time, while certificates are replaced and
// Envoy and the agent are restarted. It fails if a byte is lost, or if weft tunnel, the agent or weft proxy hold more
// descriptors or memory afterwards than before.
//
//	main.go     flags, order
//	node.go     the node and its pods
//	protocol.go what client and server say to each other
//	load.go     the kinds of load
//	disturb.go  restarts
//	watch.go    what the processes hold
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type config struct {
	span   time.Duration
	bytes  string
	binary string
	envoy  string
}

func main() {
	var c config
	flag.DurationVar(&c.span, "span", 20*time.Minute, "how long the load lasts")
	flag.StringVar(&c.bytes, "bytes", "tunnel", "how authenticated bytes go: hbone or tunnel, as with weft agent --bytes")
	flag.StringVar(&c.binary, "weft", "bin/weft", "the binary to test")
	flag.StringVar(&c.envoy, "envoy", os.Getenv("ENVOY"), "Envoy (default: $ENVOY, or what weft proxy finds)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it makes network namespaces and loads eBPF programs")
	}
	if c.binary, err = filepath.Abs(c.binary); err != nil {
		return err
	}
	s, err := start(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	// What is kept for good after the first load is not a leak: pools, sessions, buffers of the allocators.
	s.progress("warming up")
	if err := s.load(ctx, min(c.span, warmUp), false); err != nil {
		return err
	}
	before, err := s.settled(ctx)
	if err != nil {
		return err
	}
	s.progress("%s of load", c.span)
	if err := s.load(ctx, c.span, true); err != nil {
		return err
	}
	after, err := s.settled(ctx)
	if err != nil {
		return err
	}
	return errors.Join(s.report(os.Stdout), compare(os.Stdout, before, after))
}
