package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/proxy"
	"github.com/weft-mesh/weft/internal/state"
)

// TestLossesOfTheAccessLog: what was dropped before the agent started does not count, and a new weft proxy begins with 0.
func TestLossesOfTheAccessLog(t *testing.T) {
	st, flows := state.New(state.NewDB()), observe.NewStore(16)
	l := &proxyLosses{st: st, flows: flows}
	for i, step := range []struct{ reported, want uint64 }{{5, 0}, {5, 0}, {9, 4}, {2, 6}, {3, 7}} {
		l.take(&proxy.Status{LogsDropped: step.reported})
		row, _ := st.Lost.Get(st.Snapshot(), model.LostAccessLog)
		if row == nil || row.Count != step.want {
			t.Errorf("report %d: the row is %+v, want %d", i, row, step.want)
		}
	}
	var gap uint64
	for _, e := range flows.List(observe.Filter{}, 0) {
		gap += e.Lost
	}
	if gap != 7 {
		t.Errorf("the gaps are of %d flows, want 7", gap)
	}
}

// TestDroppedCopies: copies of requests that were dropped are a row, and no gap in the flows.
func TestDroppedCopies(t *testing.T) {
	st, flows := state.New(state.NewDB()), observe.NewStore(16)
	l := &proxyLosses{st: st, flows: flows}
	for i, step := range []struct{ reported, want uint64 }{{5, 0}, {9, 4}, {2, 6}} {
		l.take(&proxy.Status{CopiesDropped: step.reported})
		row, _ := st.Lost.Get(st.Snapshot(), model.LostCopies)
		if row == nil || row.Count != step.want {
			t.Errorf("report %d: the row is %+v, want %d", i, row, step.want)
		}
	}
	if got := flows.List(observe.Filter{}, 0); len(got) != 0 {
		t.Errorf("flows %+v, want none", got)
	}
}

// TestUnansweredRequestsAreShown: requests that failed without an agent are one flow, and those that follow another one.
func TestUnansweredRequestsAreShown(t *testing.T) {
	flows := observe.NewStore(16)
	l := &proxyLosses{st: state.New(state.NewDB()), flows: flows}
	at := func(minute int) time.Time { return time.Date(2026, 1, 2, 3, minute, 0, 0, time.UTC) }
	l.take(&proxy.Status{Unanswered: &proxy.Unanswered{Requests: 12, From: at(1), To: at(2), Total: 20}})
	l.take(&proxy.Status{Unanswered: &proxy.Unanswered{Requests: 12, From: at(1), To: at(2), Total: 20}})
	l.take(&proxy.Status{Unanswered: &proxy.Unanswered{Requests: 13, From: at(1), To: at(3), Total: 21}})
	l.take(&proxy.Status{})
	l.take(&proxy.Status{Unanswered: &proxy.Unanswered{Requests: 2, From: at(8), To: at(9), Total: 2}})
	want := []struct {
		more  uint64
		times string
	}{
		{11, "between 2026-01-02T03:01:00Z and 2026-01-02T03:02:00Z"},
		{0, "between 2026-01-02T03:02:00Z and 2026-01-02T03:03:00Z"},
		{1, "between 2026-01-02T03:08:00Z and 2026-01-02T03:09:00Z"},
	}
	got := flows.List(observe.Filter{}, 0)
	if len(got) != len(want) {
		t.Fatalf("%d flows, want %d", len(got), len(want))
	}
	for i, w := range want {
		f := got[i].Flow
		if f.Verdict != observe.Failed || f.More != w.more || !strings.HasSuffix(f.Reason, w.times) {
			t.Errorf("flow %d is %+v, want %+v", i, f, w)
		}
	}
}
