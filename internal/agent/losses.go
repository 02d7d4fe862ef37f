package agent

import (
	"fmt"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/proxy"
	"github.com/weft-mesh/weft/internal/state"
)

// proxyLosses makes rows and marks for weft observe of what weft proxy reports of Envoy's losses.
type proxyLosses struct {
	st    *state.State
	flows *observe.Store

	began        bool
	logs, copies dropped
	requests     uint64    // what the last report said
	to           time.Time // when the last request failed
}

// take takes in a report.
func (l *proxyLosses) take(st *proxy.Status) {
	if more, changed := l.logs.take(st.LogsDropped, l.began); changed {
		l.put(model.LostAccessLog, l.logs.lost)
		l.flows.AddLost(more)
	}
	if _, changed := l.copies.take(st.CopiesDropped, l.began); changed {
		l.put(model.LostCopies, l.copies.lost)
	}
	if st.Unanswered == nil {
		l.requests = 0
	} else {
		l.takeRequests(st.Unanswered)
	}
	l.began = true
}

func (l *proxyLosses) put(source string, lost uint64) {
	w := l.st.Write(l.st.Lost)
	l.st.Lost.Put(w, &model.Lost{Source: source, Count: lost})
	w.Commit()
}

// dropped follows a count of weft proxy's.
type dropped struct {
	reported uint64 // by the last report
	lost     uint64 // since the agent started
}

// take returns what was dropped since the last report, and whether the row changes; at the first report it does. A supervisor that
// comes after another begins with 0.
func (d *dropped) take(reported uint64, began bool) (more uint64, changed bool) {
	if more = reported; !began {
		more = 0
	} else if reported >= d.reported {
		more = reported - d.reported
	}
	d.reported = reported
	d.lost += more
	return more, !began || more > 0
}

// takeRequests shows requests that failed because no agent answered as one flow. Of those before this agent the last time is
// shown, at its start: nobody else can tell what happened to them.
func (l *proxyLosses) takeRequests(u *proxy.Unanswered) {
	more, from := u.Requests, u.From
	if u.Total >= l.requests && l.requests > 0 {
		more = u.Total - l.requests
		if l.to.After(from) {
			from = l.to
		}
	}
	l.requests, l.to = u.Total, u.To
	if more == 0 {
		return
	}
	l.flows.Add(observe.Flow{
		Time: u.To, Protocol: model.TCP, SeenAt: observe.AtSource, Verdict: observe.Failed, Layer: observe.L7, More: more - 1,
		Reason: fmt.Sprintf("503, flag SI: no weft agent told Envoy the routes of the Service in time, between %s and %s",
			from.UTC().Format(time.RFC3339), u.To.UTC().Format(time.RFC3339)),
	})
}
