package proxy

import "time"

// What Envoy counts of what it drops or fails: while the agent does not answer, or too slowly, and for lack of room.
const (
	// statLogsDropped counts entries of the access log, which become flows, for which its buffer had no room
	// (https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/observability/access_log/stats).
	statLogsDropped = "access_logs.grpc_access_log.logs_dropped"
	// statUnanswered counts requests of workloads that waited too long for their route table and got 503 with the response
	// flag SI. No other request of theirs has an idle timeout (xds/wait.go).
	statUnanswered = "http.out-http.downstream_rq_idle_timeout"
	// statCopiesActive and statCopiesPending count copies of requests for mirrors that were not sent, because as many as may were
	// under way, or waited for a connection (xds/mirror.go).
	statCopiesActive  = "cluster.mirror.upstream_rq_active_overflow"
	statCopiesPending = "cluster.mirror.upstream_rq_pending_overflow"
)

// Unanswered are requests that Envoy failed, because no agent told it the routes in time.
type Unanswered struct {
	// Requests failed between From and To.
	Requests uint64    `json:"requests"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	// Total counts those before too, since the supervisor began.
	Total uint64 `json:"total"`
}

// sameOutage is how long no request may fail until the next one belongs to another time without an agent.
const sameOutage = 10 * time.Minute

// growth follows a counter of Envoy's over the Envoys that come one after the other.
type growth struct {
	of   *process
	base uint64
}

// take returns how much a counter has grown since the last call, 0 at the first. An Envoy that took over from another counts on
// from where that one was, but only after some seconds; any other Envoy begins with 0.
func (g *growth) take(p *process, now uint64) uint64 {
	switch {
	case g.of == nil:
		g.base = now
	case g.of != p && p.Epoch <= g.of.Epoch:
		g.base = 0
	}
	g.of = p
	more := max(now, g.base) - g.base
	g.base += more
	return more
}

// losses are what Envoy dropped and failed since the supervisor began.
type losses struct {
	logs, copies, requests     growth
	logsDropped, copiesDropped uint64
	unanswered                 Unanswered
	asked                      time.Time // when Envoy answered the last time
}

// take adds what a poll at a time saw, and reports whether it is more than before.
func (l *losses) take(p *poll, now time.Time) bool {
	before := l.asked
	l.asked = now
	logs, copies, requests := l.logs.take(p.of, p.logsDropped), l.copies.take(p.of, p.copiesDropped), l.requests.take(p.of, p.unanswered)
	l.logsDropped += logs
	l.copiesDropped += copies
	if requests > 0 {
		u := &l.unanswered
		if u.Requests == 0 || before.Sub(u.To) > sameOutage {
			u.Requests, u.From = 0, before
		}
		u.Requests, u.Total, u.To = u.Requests+requests, u.Total+requests, now
	}
	return logs > 0 || copies > 0 || requests > 0
}
