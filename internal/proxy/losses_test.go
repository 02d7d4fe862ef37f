package proxy

import (
	"testing"
	"time"
)

// TestLosses: losses are counted over the Envoys that come one after the other, and requests are told with the time in which
// they failed.
func TestLosses(t *testing.T) {
	first := &process{}
	second := &process{}
	second.Epoch = 1
	cold := &process{}
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0).UTC() }
	var l losses
	for _, step := range []struct {
		name           string
		of             *process
		second         int
		logs, requests uint64
		more           bool
		wantLogs       uint64
		want           Unanswered
	}{
		{"what was before the supervisor", first, 1, 100, 50, false, 0, Unanswered{}},
		{"nothing new", first, 2, 100, 50, false, 0, Unanswered{}},
		{"requests fail", first, 3, 100, 53, true, 0, Unanswered{Requests: 3, From: at(2), To: at(3), Total: 3}},
		{"more of them, and a log is full", first, 9, 102, 54, true, 2, Unanswered{Requests: 4, From: at(2), To: at(9), Total: 4}},
		{"a hot restart, whose Envoy has not taken over the counters yet", second, 10, 0, 0, false, 2, Unanswered{Requests: 4, From: at(2), To: at(9), Total: 4}},
		{"it has", second, 15, 102, 55, true, 2, Unanswered{Requests: 5, From: at(2), To: at(15), Total: 5}},
		{"a cold start", cold, 20, 0, 1, true, 2, Unanswered{Requests: 6, From: at(2), To: at(20), Total: 6}},
		{"still", cold, 3000, 1, 1, true, 3, Unanswered{Requests: 6, From: at(2), To: at(20), Total: 6}},
		{"another outage", cold, 3001, 1, 3, true, 3, Unanswered{Requests: 2, From: at(3000), To: at(3001), Total: 8}},
	} {
		more := l.take(&poll{of: step.of, logsDropped: step.logs, unanswered: step.requests}, at(step.second))
		if more != step.more || l.logsDropped != step.wantLogs || l.unanswered != step.want {
			t.Errorf("%s: more %t, %d dropped, %+v; want %t, %d, %+v", step.name, more, l.logsDropped, l.unanswered, step.more, step.wantLogs, step.want)
		}
	}
}
