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

	began bool
	// logs and requests are what the last report said, lost is how many entries of the access log were dropped since the agent started.
	logs, requests, lost uint64
	to                   time.Time // when the last request failed
}

// take takes in a report.
func (l *proxyLosses) take(st *proxy.Status) {
	l.takeLogs(st.LogsDropped)
	if st.Unanswered == nil {
		l.requests = 0
	} else {
		l.takeRequests(st.Unanswered)
	}
	l.began = true
}

// takeLogs counts what was dropped since the last report. A supervisor that comes after another begins with 0.
func (l *proxyLosses) takeLogs(dropped uint64) {
	more := dropped
	switch {
	case !l.began:
		more = 0
	case dropped >= l.logs:
		more = dropped - l.logs
	}
	l.logs = dropped
	if l.began && more == 0 {
		return
	}
	l.lost += more
	w := l.st.Write(l.st.Lost)
	l.st.Lost.Put(w, &model.Lost{Source: model.LostAccessLog, Count: l.lost})
	w.Commit()
	l.flows.AddLost(more)
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
