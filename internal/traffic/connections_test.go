package traffic

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// tables holds two pods of one Deployment, and a pod that nothing owns.
func tables() *state.State {
	st := state.New(state.NewDB())
	tx := st.Write(st.Workloads)
	for _, w := range []*model.Workload{
		{Namespace: "shop", Name: "web-1", Owner: model.Owner{Kind: "Deployment", Name: "web"}},
		{Namespace: "shop", Name: "web-2", Owner: model.Owner{Kind: "Deployment", Name: "web"}},
		{Namespace: "bank", Name: "ledger"},
	} {
		st.Workloads.Put(tx, w)
	}
	tx.Commit()
	return st
}

func flow(source, destination string) *observe.Flow {
	return &observe.Flow{
		SeenAt: observe.AtSource, Verdict: observe.Forwarded,
		Source: observe.Peer{Workload: source}, Destination: observe.Peer{Workload: destination, Service: "bank/ledger"},
	}
}

func TestConnectionsAreCountedByOwner(t *testing.T) {
	c := NewConnections(tables())
	for _, pod := range []string{"shop/web-1", "shop/web-2"} {
		f := flow(pod, "bank/ledger")
		f.Source.Identity, f.Destination.Identity = "spiffe://td/ns/shop/sa/web", "spiffe://td/ns/bank/sa/ledger"
		c.Opened(f)
		f.Sent, f.Received, f.Retransmits, f.RTT = 10, 20, 1, time.Millisecond
		c.Ended(f)
	}
	failed := flow("shop/web-1", "shop/gone")
	failed.Verdict = observe.Failed
	c.Ended(failed)
	denied := flow("", "bank/ledger")
	denied.SeenAt, denied.Verdict, denied.Reason = observe.AtDestination, observe.Refused, "plaintext to a strict workload"
	denied.More = 4 // that are no flows
	c.Ended(denied)
	const (
		both   = `destination_identity="spiffe://td/ns/bank/sa/ledger",destination_kind="Pod",destination_namespace="bank",destination_service="ledger",destination_service_namespace="bank",destination_workload="ledger",mtls="true",reporter="source",source_identity="spiffe://td/ns/shop/sa/web",source_kind="Deployment",source_namespace="shop",source_workload="web"`
		gone   = `destination_identity="",destination_kind="unknown",destination_namespace="shop",destination_service="ledger",destination_service_namespace="bank",destination_workload="unknown",mtls="false",reporter="source",source_identity="",source_kind="Deployment",source_namespace="shop",source_workload="web"`
		nobody = `destination_identity="",destination_kind="Pod",destination_namespace="bank",destination_service="ledger",destination_service_namespace="bank",destination_workload="ledger",mtls="false"%s,reporter="destination",source_identity="",source_kind="unknown",source_namespace="unknown",source_workload="unknown"`
	)
	verdict := func(labels, v string, n int) string {
		return fmt.Sprintf("weft_tcp_connections_closed_total{%s,verdict=%q} %d\n", labels, v, n)
	}
	want := "# HELP weft_tcp_connections_closed_total " + closed.Help + "\n# TYPE weft_tcp_connections_closed_total counter\n" +
		verdict(both, "forwarded", 2) + verdict(both, "failed", 0) + verdict(gone, "forwarded", 0) + verdict(gone, "failed", 1) +
		verdict(fmt.Sprintf(nobody, ""), "forwarded", 0) + verdict(fmt.Sprintf(nobody, ""), "failed", 0) +
		"# HELP weft_tcp_connections_refused_total " + refused.Help + "\n# TYPE weft_tcp_connections_refused_total counter\n" +
		"weft_tcp_connections_refused_total{" + fmt.Sprintf(nobody, `,reason="plaintext to a strict workload"`) + "} 5\n"
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), closed.Name, refused.Name); err != nil {
		t.Error(err)
	}
	for m, n := range map[string]int{opened.Name: 3, sent.Name: 3, received.Name: 3, retransmits.Name: 3, rtt.Name: 1} {
		if got := testutil.CollectAndCount(c, m); got != n {
			t.Errorf("%s has %d series, want %d", m, got, n)
		}
	}
}

// TestTenantsShares: a namespace cannot take the room of others, and all that it does is counted.
func TestTenantsShares(t *testing.T) {
	c := NewConnections(tables())
	c.sets = newSets[tcp](10, 4)
	for i := range 100 {
		f := flow("shop/web-1", "bank/ledger")
		f.Destination.Service = fmt.Sprint("shop/s", i)
		c.Opened(f)
	}
	c.Opened(flow("bank/ledger", "shop/web-1"))
	counted := map[string]uint64{}
	for l, s := range c.sets.kept {
		counted[l.Source.Namespace] += s.counts.opened
	}
	if len(c.sets.kept) != 6 || counted["shop"] != 4 || counted["bank"] != 1 || counted[Overflow] != 96 {
		t.Errorf("%d sets, %v", len(c.sets.kept), counted)
	}
	for i := range 10 {
		f := flow("bank/ledger", "shop/web-1")
		f.SeenAt, f.Destination.Workload = observe.AtDestination, fmt.Sprint(i, "/x")
		c.Opened(f)
	}
	if n := len(c.sets.kept); n > 10+2 {
		t.Errorf("%d sets", n)
	}
}

func TestIdleSetsAreForgotten(t *testing.T) {
	c := NewConnections(tables())
	now := time.Unix(1e9, 0)
	c.now = func() time.Time { return now }
	c.Opened(flow("shop/web-1", "bank/ledger"))
	now = now.Add(IdleTime / 2)
	c.Opened(flow("bank/ledger", "shop/web-1"))
	now = now.Add(IdleTime / 2)
	if n := testutil.CollectAndCount(c, opened.Name); n != 1 || len(c.sets.of) != 1 {
		t.Errorf("%d sets in %v, want the one that was used", n, c.sets.of)
	}
}

func TestReasonsAreBounded(t *testing.T) {
	c := NewConnections(tables())
	for i := range 100 {
		f := flow("shop/web-1", "bank/ledger")
		f.Verdict, f.Reason = observe.Refused, fmt.Sprint("reason ", i)
		c.Ended(f)
	}
	if n := testutil.CollectAndCount(c, refused.Name); n != maxReasons+1 {
		t.Errorf("%d reasons", n)
	}
}

// TestCountWhileCollecting is for the race detector.
func TestCountWhileCollecting(t *testing.T) {
	c := NewConnections(tables())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				c.Opened(flow("shop/web-1", "bank/ledger"))
				c.Ended(flow("shop/web-1", "bank/ledger"))
			}
		})
	}
	for range 10 {
		testutil.CollectAndCount(c)
	}
	wg.Wait()
	for _, s := range c.sets.kept {
		if s.counts.opened != 400 || s.counts.forwarded != 400 {
			t.Errorf("%+v", s.counts)
		}
	}
}
