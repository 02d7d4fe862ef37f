package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"golang.org/x/term"

	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/test/bench/wire"
)

// connections at which requests are measured.
var connections = []int{1, 32, 256}

// openers are the connections that are opened anew at the same time.
const openers = 32

// unread are the downloads that nobody reads, beside requests on as many connections as openers.
const unread = 16

// figures of one way at one number of connections: medians of the rounds.
type figures struct {
	Way         string        `json:"way"`
	Connections int           `json:"connections"`
	Rate        float64       `json:"requestsPerSecond"`
	P50         time.Duration `json:"p50ns"`
	P99         time.Duration `json:"p99ns"`
	// CPU of all processes involved, and of the proxies (and the agent) among them, a request; of a stream, a GB.
	CPU      time.Duration `json:"cpuPerRequestns"`
	ProxyCPU time.Duration `json:"proxyCPUPerRequestns"`
	Failed   int           `json:"failed"`
	// Rounds are the rates of each round, in order: rounds of all ways have the same index.
	Rounds []float64 `json:"rounds"`
	// CPURounds are the times of CPU, in nanoseconds, in the same rounds.
	CPURounds []float64 `json:"cpuRounds"`
	// Others is the share of the machine's CPUs that other processes had, in each round.
	Others []float64 `json:"others"`
}

// paths measures requests, connections opened and throughput.
func paths(ctx context.Context, c config, r *report) (err error) {
	all, closeAll, err := ways(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	all = slices.DeleteFunc(all, func(w way) bool { return !selected(c, w) })
	for _, w := range all { // routes, certificates and pools are learned here
		if _, err := w.measure(ctx, wire.Load{Connections: 32, Duration: 300 * time.Millisecond}); err != nil {
			return err
		}
	}
	for _, n := range connections {
		f, err := turns(ctx, c, all, wire.Load{Connections: n, Duration: c.span})
		if err != nil {
			return err
		}
		r.Requests = append(r.Requests, f...)
	}
	if r.Opened, err = turns(ctx, c, all, wire.Load{Connections: openers, Duration: c.span, Reopen: true}); err != nil {
		return err
	}
	if r.OpenedFIN, err = turns(ctx, c, all, wire.Load{Connections: openers, Duration: c.span, Reopen: true, FIN: true}); err != nil {
		return err
	}
	if r.Unread, err = turns(ctx, c, all, wire.Load{Connections: openers, Duration: c.span, Unread: unread}); err != nil {
		return err
	}
	r.Throughput, err = turns(ctx, c, all, wire.Load{Duration: c.span, Stream: true})
	return err
}

// measure makes one measurement and fails if a request did. Beside downloads that nobody reads, requests may fail.
func (w way) measure(ctx context.Context, l wire.Load) (sample, error) {
	l.Target = w.target
	s, err := call(ctx, w.from, l, w.proxies, w.server)
	if err == nil && s.Failed > 0 && l.Unread == 0 {
		err = fmt.Errorf("%d requests failed, %d did not: %s", s.Failed, s.Requests, s.Error)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", w.name, err)
	}
	return s, nil
}

// turns measures every way once a round, in turns: forwards, then backwards.
func turns(ctx context.Context, c config, all []way, l wire.Load) ([]figures, error) {
	samples := map[string][]sample{}
	order := slices.Clone(all)
	for i := range c.rounds {
		for _, w := range order {
			s, err := w.measure(ctx, l)
			if err != nil {
				return nil, err
			}
			samples[w.name] = append(samples[w.name], s)
		}
		slices.Reverse(order)
		progress("%s: round %d of %d", describe(l), i+1, c.rounds)
	}
	var out []figures
	for _, w := range all {
		out = append(out, summarize(w.name, l, samples[w.name]))
	}
	return out, nil
}

// progress tells somebody who waits at a terminal.
func progress(format string, args ...any) {
	if term.IsTerminal(int(os.Stderr.Fd())) {
		fmt.Fprintf(os.Stderr, "\r\x1b[K"+format, args...)
	}
}

func describe(l wire.Load) string {
	switch {
	case l.Stream:
		return "one stream"
	case l.Reopen && l.FIN:
		return "connections opened, closed with FIN"
	case l.Reopen:
		return "connections opened"
	case l.Unread > 0:
		return fmt.Sprintf("%d connections beside %d unread downloads", l.Connections, l.Unread)
	}
	return fmt.Sprintf("%d connections", l.Connections)
}

func summarize(name string, l wire.Load, in []sample) figures {
	f := figures{Way: name, Connections: max(l.Connections, 1)}
	var p50, p99, cpu, proxyCPU []time.Duration
	for _, s := range in {
		units := float64(s.Requests)
		if l.Stream {
			units = float64(s.Bytes)
		}
		f.Rounds = append(f.Rounds, units/s.Took.Seconds())
		f.Failed += s.Failed
		p50, p99 = append(p50, s.P50), append(p99, s.P99)
		if l.Stream {
			units /= 1e9
		}
		if units > 0 {
			cpu, proxyCPU = append(cpu, per(s.CPU+s.Server+s.Proxies, units)), append(proxyCPU, per(s.Proxies, units))
			f.CPURounds = append(f.CPURounds, float64(cpu[len(cpu)-1]))
		}
		f.Others = append(f.Others, s.Others)
	}
	f.Rate, f.P50, f.P99, f.CPU, f.ProxyCPU = median(f.Rounds), median(p50), median(p99), median(cpu), median(proxyCPU)
	return f
}

func per(spent time.Duration, units float64) time.Duration {
	return time.Duration(float64(spent) / units)
}

// disturbed counts the rounds in which others had too much of the machine.
func (f figures) disturbed() (n int) {
	for _, o := range f.Others {
		if o > load.DisturbedFrom {
			n++
		}
	}
	return n
}

func median[T float64 | time.Duration | int64](v []T) T {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// ratio is the median of the ratios of rounds that were measured together.
func ratio(all []figures, way, to string, connections int) (float64, bool) {
	out := ratios(all, way, to, connections, func(f figures) []float64 { return f.Rounds })
	return median(out), len(out) > 0
}

// ratios compares what was measured of two ways in each round.
func ratios(all []figures, way, to string, connections int, of func(figures) []float64) (out []float64) {
	a, _ := find(all, way, connections)
	b, _ := find(all, to, connections)
	rounds, others := of(a), of(b)
	for i := range min(len(rounds), len(others)) {
		if others[i] > 0 {
			out = append(out, rounds[i]/others[i])
		}
	}
	return out
}

// interval is where the median of more rounds would be found, with 95 % confidence or more if there are six rounds at least: the
// order statistics of the sign test. All rounds are within it if there are fewer.
func interval(v []float64) (low, high float64) {
	v = slices.Sorted(slices.Values(v))
	if len(v) == 0 {
		return 0, 0
	}
	n, outside := len(v), 0
	// ways is how many of the 2^n ways to fall on the two sides of the median have at most outside on one side.
	for ways, choose := 1.0, 1.0; outside < (n-1)/2; outside++ {
		choose = choose * float64(n-outside) / float64(outside+1)
		if ways += choose; 2*ways > 0.05*math.Pow(2, float64(n)) {
			break
		}
	}
	return v[outside], v[n-1-outside]
}
