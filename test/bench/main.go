// Bench compares the ways through a node, side by side in one run, and writes build/bench.json.
//
// All ways are up at the same time, and are measured in turns, round after round: what the machine does besides meets
// all of them alike. Every figure is the median of the rounds. Ratios hold better than times.
//
//	main.go      flags, order
//	ways.go      the ways, and the node that they need
//	envoy.go     hand-written Envoys: a static hop, a pair of sidecars
//	measure.go   one measurement: a client process in a pod
//	paths.go     requests, connections opened, throughput
//	idle.go      memory for idle connections
//	observing.go requests while agents observe more or less
//	questions.go questions to DNS by UDP while agents look at them or do not
//	agents.go    agents that take turns on one node
//	others.go    what the machine does besides
//	memory.go    100 pods and 5,000 L7 Services
//	restart.go   an agent that is killed and started again among 5,000 Services
//	change.go    from a file's change to the route's first answer
//	cpu.go       what processes cost
//	report.go    table, marks, JSON
//	wire/        client and server
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// config holds the flags.
type config struct {
	parts   string
	ways    string
	bytes   string
	rounds  int
	span    time.Duration
	routes  string
	changes int
	idle    int
	hold    time.Duration
	binary  string
	envoy   string
	out     string
}

func main() {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "as-") {
		if err := runAs(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	var c config
	flag.StringVar(&c.parts, "parts", "paths,observing,questions,idle,memory,restart,change", "what to measure, of these")
	flag.StringVar(&c.ways, "ways", "", "of the paths, only those whose name contains one of these, comma-separated")
	flag.StringVar(&c.bytes, "bytes", "tunnel", "how authenticated bytes go: hbone or tunnel, as with weft agent --bytes")
	flag.IntVar(&c.rounds, "rounds", 5, "measurements of each figure; their median counts")
	flag.DurationVar(&c.span, "span", time.Second, "length of one measurement")
	flag.StringVar(&c.routes, "routes", "10,1000,10000", "numbers of routes at which a change is measured")
	flag.IntVar(&c.changes, "changes", 40, "changes measured at each number of routes")
	flag.IntVar(&c.idle, "idle", idleConnections, "idle connections whose memory is measured")
	flag.DurationVar(&c.hold, "hold", idleFor, "time in which they are opened and held")
	flag.StringVar(&c.binary, "weft", "bin/weft", "the binary to measure")
	flag.StringVar(&c.envoy, "envoy", "", "Envoy (default: $ENVOY, PATH, or beside weft)")
	flag.StringVar(&c.out, "out", "build/bench.json", "file for the figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it makes network namespaces and loads eBPF programs")
	}
	// What is started here has as many descriptors too: Go gives its children the limit that was set like this.
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("limit of descriptors: %w", err)
	}
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("raise the limit of descriptors: %w", err)
	}
	var err error
	if c.binary, err = filepath.Abs(c.binary); err != nil {
		return err
	}
	if _, err := os.Stat(c.binary); err != nil {
		return fmt.Errorf("%w: make build", err)
	}
	if c.envoy, err = findEnvoy(c); err != nil {
		return err
	}
	if c.bytes != "hbone" && c.bytes != "tunnel" {
		return fmt.Errorf("-bytes %q: hbone and tunnel are possible", c.bytes)
	}
	r := newReport(c)
	parts := map[string]func(context.Context, config, *report) error{"paths": paths, "observing": observing, "questions": questions, "idle": idle, "memory": memory, "restart": restart, "change": change}
	for _, p := range strings.Split(c.parts, ",") {
		f := parts[p]
		if f == nil {
			return fmt.Errorf("no part is called %q; there are paths, observing, questions, idle, memory, restart and change", p)
		}
		if err := f(ctx, c, r); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	progress("")
	r.Took = time.Since(r.Began).Round(time.Second).String()
	r.mark()
	r.print(os.Stdout)
	return r.write(c.out)
}
