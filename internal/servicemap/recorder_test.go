package servicemap

import (
	"context"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/traffic"
)

// counted is a node that counts ten requests a second.
type counted struct {
	r     *Recorder
	clock time.Time
	taken int
	begin time.Time
}

func newCounted() *counted {
	c := &counted{clock: now, begin: now}
	c.r = NewRecorder(func(context.Context) map[traffic.Labels]traffic.Totals {
		c.taken++
		n := uint64(10 * c.clock.Sub(c.begin).Seconds())
		return map[traffic.Labels]traffic.Totals{{Reporter: traffic.AtSource, Service: "shop/web"}: {Requests: n}}
	})
	c.r.now = func() time.Time { return c.clock }
	return c
}

func (c *counted) after(d time.Duration) *Part {
	c.clock = c.clock.Add(d)
	return c.r.Part(context.Background())
}

func TestRecorder(t *testing.T) {
	c := newCounted()
	if p := c.after(time.Minute); p.Seconds != 0 || len(p.Counts) != 1 || p.Counts[0].Requests != 0 || !p.Counts[0].Ever {
		t.Errorf("the first: %+v", p)
	}
	for i := range 100 { // somebody looks every 3 s
		p := c.after(3 * time.Second)
		if rate := float64(p.Counts[0].Requests) / p.Seconds; rate < 9.9 || rate > 10.1 {
			t.Errorf("%d: %v a second over %v s", i, rate, p.Seconds)
		}
		if i > 15 && (p.Seconds < 0.6*Window.Seconds() || p.Seconds > Window.Seconds()+step.Seconds()) {
			t.Errorf("%d: a window of %v s", i, p.Seconds)
		}
		if len(c.r.kept) > int(Window/step)+2 {
			t.Errorf("%d moments are kept", len(c.r.kept))
		}
	}
	taken := c.taken
	for range 10 {
		c.after(time.Millisecond)
	}
	if c.taken > taken+1 {
		t.Errorf("the node was asked %d times in a moment", c.taken-taken)
	}
	if p := c.after(time.Hour); p.Seconds != 0 {
		t.Errorf("after an hour: %+v", p)
	}
	c.r.clear()
	if c.r.kept != nil || c.r.last != nil {
		t.Error("something is kept")
	}
}

func TestSince(t *testing.T) {
	before := traffic.Totals{Requests: 10, Latency: latency(map[int]uint64{1: 5}), Refused: map[string]uint64{"a": 1, "b": 2}}
	now := traffic.Totals{Requests: 15, Latency: latency(map[int]uint64{1: 6, 2: 1}), Refused: map[string]uint64{"a": 1, "b": 5}, Opened: 3, UDP: traffic.UDPTotals{Exchanges: 2, Questions: 3}}
	got := since(now, before)
	if got.Requests != 5 || got.Latency[1] != 1 || got.Latency[2] != 1 || len(got.Refused) != 1 || got.Refused["b"] != 3 || got.Opened != 3 || got.UDP != now.UDP {
		t.Errorf("%+v", got)
	}
	if got := since(traffic.Totals{Requests: 4}, before); got.Requests != 4 {
		t.Errorf("what begins anew: %+v", got)
	}
}

func TestPart(t *testing.T) {
	owner := func(ns, name string) traffic.End {
		return traffic.End{Namespace: ns, Owner: model.Owner{Kind: "Deployment", Name: name}}
	}
	over := traffic.Labels{Source: traffic.End{Owner: model.Owner{Kind: traffic.Overflow}}, Destination: traffic.End{Owner: model.Owner{Kind: traffic.Overflow}}}
	after := &sample{at: now.Add(time.Second), totals: map[traffic.Labels]traffic.Totals{
		{Reporter: "source", Source: owner("shop", "app"), Service: "store/web"}: {Refused: map[string]uint64{"no ready endpoint": 1}},
		{Reporter: "destination"}: {Opened: 5},
		over:                      {Requests: 7},
	}}
	p := newPart(&sample{at: now}, after)
	if len(p.Counts) != 2 || p.Seconds != 1 {
		t.Fatalf("%+v", p)
	}
	if c := p.Counts[0]; c.Pair != (Pair{app, End{"store", "Service", "web"}}) || c.Ever {
		t.Errorf("a Service without pods: %+v", c)
	}
	if c := p.Counts[1]; !c.Other || c.Requests != 7 {
		t.Errorf("overflow: %+v", c)
	}
	p.cut(1)
	if len(p.Counts) != 1 || p.Left != 1 {
		t.Errorf("%+v", p)
	}
}
