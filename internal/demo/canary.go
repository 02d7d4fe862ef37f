package demo

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/load"
)

// sigmas is how far a measured share may be from the one that was asked for: a fair split misses it once in 16,000.
const sigmas = 4

const (
	firstShare, secondShare = 0.1, 0.5
	settled                 = 1000 // requests after which the new split is measured
)

// canary shows an HTTPRoute's split, and what happens when its weights are edited under load.
func (d *demo) canary(ctx context.Context) {
	d.section("1  A canary: HTTPRoute on a Service (examples/canary)")
	d.split(ctx)
	d.shift(ctx)
}

// fromClient calls Service web from the pod canary/client.
func (d *demo) fromClient() load.Config {
	return load.Config{URL: d.serviceURL("canary", "web"), Host: "web", Dial: d.node.Pod("canary", "client").Dial, Workers: 8}
}

func (d *demo) serviceURL(namespace, name string) string {
	return "http://" + netip.AddrPortFrom(d.node.ServiceIP(namespace, name), 80).String()
}

func (d *demo) split(ctx context.Context) {
	const name = "90/10 over 1,000 requests"
	c := d.fromClient()
	c.Requests = 1000
	r, err := load.Run(ctx, c)
	if err != nil {
		d.fail(name, err)
		return
	}
	ok := r.Failed == 0 && load.Within(r.Backends["v2"], r.Requests, firstShare, sigmas)
	d.line(ok, name, "v2 got %.1f %% (chance allows 10 ± %.1f), %d failed%s",
		100*r.Share("v2"), 100*load.Bound(r.Requests, firstShare, sigmas), r.Failed, why(r))
}

func (d *demo) shift(ctx context.Context) {
	const holds, lossless = "file edited to 50/50: the new split holds", "... requests failed meanwhile"
	var series load.Series
	c := d.fromClient()
	c.Rate, c.Observe = 2000, series.Add
	running, err := load.Start(ctx, c)
	if err != nil {
		d.fail(holds, err)
		return
	}
	pause(ctx, time.Second)
	err = d.node.Edit("canary/route.yaml", func(s string) string {
		return strings.NewReplacer("weight: 90", "weight: 50", "weight: 10", "weight: 50").Replace(s)
	})
	edited := time.Now()
	pause(ctx, 2*time.Second)
	r := running.Stop()
	if err != nil {
		d.fail(holds, err)
		return
	}
	took, share, err := newShare(series.Since(edited), edited)
	if err != nil {
		d.fail(holds, err)
	} else {
		n := settled
		d.line(load.Within(int(share*float64(n)+0.5), n, secondShare, sigmas), holds,
			"within %s; then v2 got %.1f %% (50 ± %.1f)", millis(took), 100*share, 100*load.Bound(n, secondShare, sigmas))
	}
	d.line(r.Failed == 0 && r.Requests > 0, lossless, "%d of %s%s", r.Failed, number(r.Requests), why(r))
}

// newShare finds when the new split held and the share of v2 in the last requests. A split shows only over many
// requests; the time is that of the last request with which it may have begun.
func newShare(after []load.Result, edited time.Time) (time.Duration, float64, error) {
	hits := make([]bool, len(after))
	for i, r := range after {
		hits[i] = r.Backend == "v2"
	}
	_, at := load.Shift(hits, firstShare, secondShare)
	if rest := len(hits) - at; rest < settled {
		return 0, 0, fmt.Errorf("it does not within 2 s: only %d of %d requests after the edit look like it", rest, len(hits))
	}
	n := 0
	for _, h := range hits[len(hits)-settled:] {
		if h {
			n++
		}
	}
	return after[at].Start.Sub(edited), float64(n) / settled, nil
}

// why lists failures, for a line that has some.
func why(r *load.Report) string {
	if r.Failed == 0 {
		return ""
	}
	return ": " + strings.Join(r.Failures(), ", ")
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
