package proxy

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// pollTimeout is how long Envoy's main thread may not answer until its state is unknown.
const pollTimeout = 3 * time.Second

// poll is what Envoy answered.
type poll struct {
	of    *process
	state string // as in Status
	// overload has the actions of the overload manager by name, as stop_accepting_requests, and whether each is active
	// (https://www.envoyproxy.io/docs/envoy/latest/configuration/operations/overload_manager/overload_manager).
	overload map[string]bool
	// refused counts the connections that Envoy refused because it had as many as it may have.
	refused uint64
	// answered is true where the admin did. The others are then what this Envoy has counted: see losses.
	answered                               bool
	logsDropped, copiesDropped, unanswered uint64
}

// envoyStates are the values of the gauge server.state
// (https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/statistics).
var envoyStates = []string{"LIVE", "DRAINING", "PRE_INITIALIZING", "INITIALIZING"}

// statRefused counts tries to take one more of what Envoy has a fixed number of.
const statRefused = "overload.envoy.resource_monitors.global_downstream_max_connections.failed_updates"

// pollFilter names what a poll asks for. One dot for any character does no harm there.
const pollFilter = `^(server\.state|` + statRefused + `|overload\.envoy\.overload_actions\..*\.active|` + statLogsDropped + `|` + statCopiesActive + `|` + statCopiesPending + `|` + statUnanswered + `)$`

func (a *admin) poll(ctx context.Context, p *process) (*poll, error) {
	const prefix, suffix, state = "overload.envoy.overload_actions.", ".active", "server.state"
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	stats, err := a.counters(ctx, pollFilter)
	if err != nil {
		return nil, err
	}
	out := &poll{
		of: p, state: "UNKNOWN", overload: make(map[string]bool, len(stats)), refused: stats[statRefused],
		answered: true, logsDropped: stats[statLogsDropped], copiesDropped: stats[statCopiesActive] + stats[statCopiesPending], unanswered: stats[statUnanswered],
	}
	if v, ok := stats[state]; ok && v < uint64(len(envoyStates)) {
		out.state = envoyStates[v]
	}
	for name, v := range stats {
		if action, ok := strings.CutPrefix(name, prefix); ok {
			out.overload[strings.TrimSuffix(action, suffix)] = v != 0
		}
	}
	return out, nil
}

// serves is the Envoy that serves or starts; nil if there is none.
func (s *supervisor) serves() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.current; p != nil && !p.gone() {
		return p
	}
	return nil
}

// saw keeps what a poll saw, and logs when an overload begins or ends.
func (s *supervisor) saw(now *poll) {
	s.mu.Lock()
	before := s.polled
	lost := now.answered && s.losses.take(now, time.Now())
	s.mu.Unlock()
	if !lost && before != nil && before.of == now.of && before.state == now.state && maps.Equal(before.overload, now.overload) {
		return
	}
	s.set(func() { s.polled = now })
	var had []string
	if before != nil && before.of == now.of {
		had = Active(before.overload)
	}
	switch active := Active(now.overload); {
	case slices.Equal(had, active):
	case len(active) > 0:
		s.cfg.Log.Warn("Envoy is in overload", "pid", now.of.PID, "actions", strings.Join(active, ","), "memoryLimit", s.cfg.MemoryLimitBytes, "maxConnections", s.cfg.MaxConnections)
	default:
		s.cfg.Log.Info("Envoy is not in overload any more", "pid", now.of.PID)
	}
}
