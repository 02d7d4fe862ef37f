package traffic

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weft-mesh/weft/internal/observe"
)

func question(source, code string, took time.Duration) *observe.Flow {
	f := flow(source, "bank/ledger")
	f.DNS, f.Duration = &observe.DNS{Name: "chosen.by.the.client", Type: "A", Code: code}, took
	return f
}

// TestDatagramsAreCountedByOwner: exchanges and questions are counted apart, and no series has a name that was asked for.
func TestDatagramsAreCountedByOwner(t *testing.T) {
	d := NewDatagrams(tables())
	for _, pod := range []string{"shop/web-1", "shop/web-2"} {
		f := flow(pod, "bank/ledger")
		f.Sent, f.Received = 10, 20
		d.Ended(f)
		d.Ended(question(pod, "NXDOMAIN", 3*time.Millisecond))
	}
	d.Ended(question("shop/web-1", "", observe.QueryTimeout))
	d.Ended(question("shop/web-1", "NOERROR", 0)) // an answer without a question
	const labels = `destination_identity="",destination_kind="Pod",destination_namespace="bank",destination_service="ledger",destination_service_namespace="bank",destination_workload="ledger",mtls="false",reporter="source",source_identity="",source_kind="Deployment",source_namespace="shop",source_workload="web"`
	var want strings.Builder
	add := func(m Metric, series ...string) {
		fmt.Fprintf(&want, "# HELP %s %s\n# TYPE %s counter\n%s", m.Name, m.Help, m.Name, strings.Join(series, ""))
	}
	asked := func(code string, n int) string {
		return fmt.Sprintf("%s{code=%q,%s} %d\n", questions.Name, code, labels, n)
	}
	one := func(m Metric, n int) string { return fmt.Sprintf("%s{%s} %d\n", m.Name, labels, n) }
	add(questions, asked("NOERROR", 1), asked("NXDOMAIN", 2), asked("none", 1))
	add(exchanges, one(exchanges, 2))
	add(udpReceived, one(udpReceived, 40))
	add(udpSent, one(udpSent, 20))
	if err := testutil.CollectAndCompare(d, strings.NewReader(want.String()), questions.Name, exchanges.Name, udpReceived.Name, udpSent.Name); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(d); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	for _, s := range d.sets.kept {
		if n := s.counts.took.counts; n == nil || s.counts.took.sum < .006 || s.counts.took.sum > .0061 {
			t.Errorf("%+v", s.counts.took)
		}
	}
	totals := map[Labels]Totals{}
	d.AddTotals(totals)
	for _, got := range totals {
		if want := (UDPTotals{Exchanges: 2, Questions: 4, Unanswered: 1, Sent: 20, Received: 40}); got.UDP != want || len(totals) != 1 {
			t.Errorf("%+v, want %+v", got.UDP, want)
		}
	}
}

// TestDatagramsAreBounded: a namespace has its share of sets, and an idle set is forgotten.
func TestDatagramsAreBounded(t *testing.T) {
	d := NewDatagrams(tables())
	d.sets = newSets[udp](10, 4)
	now := time.Unix(1e9, 0)
	d.now = func() time.Time { return now }
	for i := range 100 {
		f := flow("shop/web-1", "bank/ledger")
		f.Destination.Service = fmt.Sprint("shop/s", i)
		d.Ended(f)
	}
	d.Ended(flow("bank/ledger", "shop/web-1"))
	if len(d.sets.kept) != 6 || testutil.CollectAndCount(d, exchanges.Name) != 6 {
		t.Errorf("%d sets", len(d.sets.kept))
	}
	now = now.Add(IdleTime)
	if n := testutil.CollectAndCount(d); n != 0 || len(d.sets.kept) != 0 {
		t.Errorf("%d series of %d sets after an hour", n, len(d.sets.kept))
	}
}

// TestDatagramsWhileCollecting is for the race detector.
func TestDatagramsWhileCollecting(t *testing.T) {
	d := NewDatagrams(tables())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				d.Ended(question("shop/web-1", "NOERROR", time.Millisecond))
			}
		})
	}
	for range 10 {
		testutil.CollectAndCount(d)
		d.AddTotals(map[Labels]Totals{})
	}
	wg.Wait()
	for _, s := range d.sets.kept {
		if s.counts.questions["NOERROR"] != 400 {
			t.Errorf("%+v", s.counts)
		}
	}
}

func BenchmarkQuestions(b *testing.B) {
	d, f := NewDatagrams(tables()), question("shop/web-1", "NOERROR", time.Millisecond)
	b.ReportAllocs()
	for b.Loop() {
		d.Ended(f)
	}
}
