package demo

import (
	"context"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/load"
)

// l4 shows that a Service without a route never meets Envoy.
func (d *demo) l4(ctx context.Context) {
	d.section("3  No route, no mTLS: the kernel alone (examples/l4)")
	const stays, beside = "connections that Envoy counts", "requests a second, beside a direct connection"
	client := d.node.Pod("l4", "client")
	c := load.Config{URL: d.serviceURL("l4", "db"), Host: "db", Dial: client.Dial, Workers: 8}

	routed := d.fromClient()
	routed.Requests, routed.NewConnections = 20, true
	before, err := d.envoyConnections(ctx)
	if err != nil {
		d.fail(stays, err)
		return
	}
	if _, err := load.Run(ctx, routed); err != nil {
		d.fail(stays, err)
		return
	}
	control, err := d.settledConnections(ctx)
	if err != nil {
		d.fail(stays, err)
		return
	}
	c.Requests, c.NewConnections = 1000, true
	r, err := load.Run(ctx, c)
	if err != nil {
		d.fail(stays, err)
		return
	}
	after, err := d.settledConnections(ctx)
	if err != nil {
		d.fail(stays, err)
		return
	}
	moved := after - control
	d.line(moved == 0 && control-before >= 20 && r.Failed == 0 && len(r.Backends) == 2, stays,
		"%d of %s (20 to a Service with a route: %d); both servers answered, %d failed%s",
		moved, number(r.Requests), control-before, r.Failed, why(r))

	var direct []load.Config // to the same two servers
	for _, name := range []string{"db-1", "db-2"} {
		one := c
		one.URL = "http://" + netip.AddrPortFrom(d.node.Pod("l4", name).Address, 8080).String()
		one.Workers /= 2
		direct = append(direct, one)
	}
	ratio, rate, err := compare(ctx, []load.Config{c}, direct)
	if err != nil {
		d.fail(beside, err)
		return
	}
	d.line(rate > 0, beside, "%s/s, %.2f of direct (make bench measures it properly)", number(int(rate)), ratio)
}

// compare measures two loads in turns, so that both meet the same noise, and gives the median ratio and the median
// rate of the first.
func compare(ctx context.Context, a, b []load.Config) (ratio, rate float64, err error) {
	const rounds = 9
	var ratios, rates []float64
	for range rounds {
		var got [2]float64
		for i, c := range [][]load.Config{a, b} {
			if got[i], err = together(ctx, c); err != nil {
				return 0, 0, err
			}
		}
		rates = append(rates, got[0])
		if got[1] > 0 {
			ratios = append(ratios, got[0]/got[1])
		}
	}
	return median(ratios), median(rates), nil
}

// together makes loads at the same time over kept connections and adds up their rates.
func together(ctx context.Context, all []load.Config) (rate float64, err error) {
	var running []*load.Running
	for _, c := range all {
		c.Requests, c.NewConnections, c.Duration = 0, false, 250*time.Millisecond
		var r *load.Running
		if r, err = load.Start(ctx, c); err != nil {
			break
		}
		running = append(running, r)
	}
	for _, r := range running {
		rate += r.Wait().Rate()
	}
	return rate, err
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// ownCounters are moved by asking Envoy's admin, or count a second time by worker.
var ownCounters = regexp.MustCompile(`(^|[.])(admin|main_thread|worker_)`)

// envoyConnections is the number of connections that Envoy's listeners accepted since it started.
func (d *demo) envoyConnections(ctx context.Context) (int, error) {
	counters, err := d.node.Proxy.Counters(ctx, `downstream_cx_total$`)
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		if strings.HasPrefix(name, "listener.") && !ownCounters.MatchString(name) {
			sum += int(counters[name])
		}
	}
	return sum, nil
}

// settledConnections reads the counters when they stopped moving: Envoy's workers merge theirs now and then.
func (d *demo) settledConnections(ctx context.Context) (int, error) {
	last, err := d.envoyConnections(ctx)
	for range 20 {
		pause(ctx, 100*time.Millisecond)
		var now int
		if now, err = d.envoyConnections(ctx); err != nil || now == last {
			return now, err
		}
		last = now
	}
	return last, err
}
