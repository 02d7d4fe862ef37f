package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weft-mesh/weft/test/bench/wire"
)

// What an agent observes. The first is there twice: what its two figures differ by is noise. The last one is all that there is,
// each request in a file among it.
const (
	observingNothing  = "nothing"
	observingNothing2 = "nothing, again"
	observingUDP      = "flows, with UDP and DNS"
	observingRequests = "flows and metrics of requests"
	observingMetrics  = "metrics and flows, the default"
	observingAll      = "all: requests as flows and an export to a file too"
)

// measuredATurn is how often each way is measured while an agent runs. Each time 32 new connections are shared out anew among
// Envoy's two threads and more: how evenly is chance, and counts for more than what is observed.
const measuredATurn = 3

// observing measures requests by routes while agents observe more or less.
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
	variants := []variant{
		{observingNothing, []string{"--metrics-address", "", "--no-udp-flows"}},
		{observingNothing2, []string{"--metrics-address", "", "--no-udp-flows"}},
		{observingUDP, []string{"--metrics-address", ""}},
		{observingRequests, []string{"--no-udp-flows"}},
		{observingMetrics, nil},
		{observingAll, []string{"--request-log", "--flow-export-file", filepath.Join(dir, "flows.json")}},
	}
	l := wire.Load{Connections: 32, Duration: c.span}
	samples := map[string]map[string][]sample{}
	for _, w := range all {
		samples[w.name] = map[string][]sample{}
	}
	err = takeTurns(ctx, b.n, c.rounds, variants, func(v variant, proxies []int) error {
		for _, w := range all {
			w.proxies = proxies
			s, err := w.measureTurn(ctx, l)
			if err != nil {
				return err
			}
			samples[w.name][v.name] = append(samples[w.name][v.name], s)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, w := range all {
		r.Observing = append(r.Observing, observed(w.name, l, variants, samples[w.name]))
	}
	return nil
}

// measureTurn measures a way several times, after connections and routes were learned, and adds it up.
func (w way) measureTurn(ctx context.Context, l wire.Load) (sum sample, err error) {
	learn := l
	learn.Duration = 300 * time.Millisecond
	if _, err := w.measure(ctx, learn); err != nil {
		return sum, err
	}
	for range measuredATurn {
		s, err := w.measure(ctx, l)
		if err != nil {
			return sum, err
		}
		sum = sum.add(s)
	}
	return sum, nil
}

// observedFigures are those of one way while more or less is observed, which is the name of each.
type observedFigures struct {
	Way       string    `json:"way"`
	Observing []figures `json:"observing"`
}

func observed(way string, l wire.Load, variants []variant, samples map[string][]sample) observedFigures {
	f := observedFigures{Way: way}
	for _, v := range variants {
		f.Observing = append(f.Observing, summarize(v.name, l, samples[v.name]))
	}
	return f
}
