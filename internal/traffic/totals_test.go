package traffic

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// TestTotals: requests and connections of one set of labels are together, and what is given is not changed later.
func TestTotals(t *testing.T) {
	st := state.New(state.NewDB())
	c := NewConnections(st)
	f := observe.Flow{SeenAt: observe.AtSource, Source: observe.Peer{Identity: "spiffe://t/ns/shop/sa/a"}, Destination: observe.Peer{Service: "shop/web", Identity: "spiffe://t/ns/shop/sa/b"}}
	c.Opened(&f)
	ended := f
	ended.Verdict, ended.Sent, ended.Received = observe.Failed, 10, 20
	c.Ended(&ended)
	refused := f
	refused.Verdict, refused.Reason = observe.Refused, "no policy allows it"
	c.Ended(&refused)
	r := NewRequests(st, func(context.Context) (*model.RequestStats, error) { return &model.RequestStats{}, nil })
	l := LabelsOf(st, &f)
	s := r.sets.at(l, r.now())
	for o, n := range map[outcome]uint64{
		{verdict: "forwarded", code: "200"}: 10, {verdict: "forwarded", code: "404"}: 1, {verdict: "forwarded", code: "503"}: 2,
		{verdict: "failed", code: "0"}: 4, {verdict: "refused", code: "403"}: 8,
	} {
		s.add(o, n)
	}
	s.duration.add(model.DurationBuckets, 2, 7, 0)
	got := map[Labels]Totals{}
	c.AddTotals(got)
	r.AddTotals(got)
	c.Ended(&refused)
	s.duration.add(model.DurationBuckets, 2, 7, 0)
	latency := make([]uint64, len(model.DurationBuckets)+1)
	latency[2] = 7
	want := map[Labels]Totals{l: {
		Requests: 25, Errors: 6, RefusedRequests: 8, Latency: latency, Opened: 1, Failed: 1, Sent: 10, Received: 20,
		Refused: map[string]uint64{"no policy allows it": 1},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if l.IsOverflow() {
		t.Error("these are no labels of overflow")
	}
	if over := l.overflow(); !over.IsOverflow() {
		t.Error("these are labels of overflow")
	}
}
