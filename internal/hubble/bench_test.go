package hubble

import (
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"

	"github.com/weft-mesh/weft/internal/observe"
)

// BenchmarkSearch applies a filter to all flows that an agent keeps.
func BenchmarkSearch(b *testing.B) {
	const kept = 16384
	store := observe.NewStore(kept)
	for range kept {
		store.Add(*answered())
	}
	o := NewObserver(Config{Node: "n", State: pods(), Flows: store, Effort: time.Hour})
	q, err := NewQuery(&observerpb.GetFlowsRequest{Number: 20, Whitelist: []*flowpb.FlowFilter{{SourcePod: []string{"shop/"}, HttpStatusCode: []string{"5+"}}}})
	if err != nil {
		b.Fatal(err)
	}
	q.Scope.All = true
	_, m, end := o.metered(b.Context())
	defer end()
	filter, err := o.filter(q, m)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for range store.History(filter, q.Number) {
			b.Fatal("a flow matches")
		}
	}
}
