package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/weft-mesh/weft/test/bench/wire"
)

// What an agent observes. The last one is all that there is, each request in a file among it.
const (
	observingNothing = "nothing"
	observingMetrics = "metrics and flows, the default"
	observingAll     = "all: requests as flows and an export to a file too"
)

// observing measures requests by routes while agents observe more or less. Agents take turns on one node: Envoy and the pods stay,
// and Envoy's listeners are as each agent has them.
func observing(ctx context.Context, c config, r *report) (err error) {
	dir, err := os.MkdirTemp("", "weft-bench-flows-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, end, err := newBuilder(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	all, err := b.build()
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(w way) bool { return w.name != weftL7 && w.name != weftL7MTLS })
	common := b.n.AgentArgs
	variants := []struct {
		name string
		args []string
	}{
		{observingNothing, []string{"--metrics-address", "", "--no-udp-flows"}},
		{observingMetrics, nil},
		{observingAll, []string{"--request-log", "--flow-export-file", filepath.Join(dir, "flows.json")}},
	}
	l := wire.Load{Connections: 32, Duration: c.span}
	samples := map[string]map[string][]sample{}
	for _, w := range all {
		samples[w.name] = map[string][]sample{}
	}
	for i := range c.rounds {
		for _, v := range variants {
			if err := b.n.StopAgent(syscall.SIGTERM); err != nil {
				return err
			}
			b.n.AgentArgs = slices.Concat(common, v.args)
			if err := b.n.StartAgent(); err != nil {
				return err
			}
			if err := b.n.Ready(ctx); err != nil {
				return err
			}
			for _, w := range all {
				w.proxies = []int{b.n.AgentPID(), w.proxies[1]}
				if _, err := w.measure(ctx, wire.Load{Connections: 32, Duration: 300 * time.Millisecond}); err != nil {
					return err
				}
				s, err := w.measure(ctx, l)
				if err != nil {
					return err
				}
				samples[w.name][v.name] = append(samples[w.name][v.name], s)
			}
		}
		// Each agent follows another kind of agent, or some would find Envoy's listeners and pools as they need them.
		variants = append(variants[1:], variants[0])
		progress("observing: round %d of %d", i+1, c.rounds)
	}
	for _, w := range all {
		f := observedFigures{Way: w.name}
		for _, name := range []string{observingNothing, observingMetrics, observingAll} {
			f.Observing = append(f.Observing, summarize(name, l, samples[w.name][name]))
		}
		r.Observing = append(r.Observing, f)
	}
	return nil
}

// observedFigures are those of one way while more or less is observed, which is the name of each.
type observedFigures struct {
	Way       string    `json:"way"`
	Observing []figures `json:"observing"`
}
