package traffic

import (
	"maps"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// Totals are what was counted of a set of labels. Requests, connections and datagrams are counted apart: a set has some of them.
type Totals struct {
	// Requests are all, Errors those of them that were answered with 5xx or failed, RefusedRequests those that a policy refused.
	Requests, Errors, RefusedRequests uint64
	// Latency counts the requests in each of model.DurationBuckets alone, the last ones without an upper bound; nil for none.
	Latency []uint64
	// Opened are the connections that were established, Failed those that never were or broke.
	Opened, Failed uint64
	// Refused are the connections that the mesh refused, by reason.
	Refused map[string]uint64
	// Bytes of connections that have ended, Sent from the source to the destination.
	Sent, Received uint64
	// UDP is what was said by UDP.
	UDP UDPTotals
}

// UDPTotals are what was counted of datagrams.
type UDPTotals struct {
	// Exchanges have ended, with the bytes Sent from the source to the destination, and Received.
	Exchanges, Sent, Received uint64
	// Questions to DNS, and those of them that have no answer.
	Questions, Unanswered uint64
}

// LabelsOf returns what a flow is counted by.
func LabelsOf(st *state.State, f *observe.Flow) Labels { return labelsOf(st, f) }

// IsOverflow reports whether the labels are those of traffic for which there was no room.
func (l *Labels) IsOverflow() bool {
	return l.Source.Owner.Kind == Overflow && l.Destination.Owner.Kind == Overflow
}

// AddTotals adds what was counted of connections to totals.
func (c *Connections) AddTotals(totals map[Labels]Totals) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sets.expire(c.now().Add(-IdleTime))
	for l, s := range c.sets.kept {
		t, n := totals[l], &s.counts
		t.Opened, t.Failed, t.Sent, t.Received, t.Refused = n.opened, n.failed, n.sent, n.received, maps.Clone(n.refused)
		totals[l] = t
	}
}

// AddTotals adds what was counted of requests to totals. Update asks Envoy for what is new.
func (r *Requests) AddTotals(totals map[Labels]Totals) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sets.expire(r.now().Add(-IdleTime))
	for l, s := range r.sets.kept {
		t := totals[l]
		for o, n := range s.counts.outcomes {
			t.Requests += n
			switch {
			case o.verdict == string(observe.Refused):
				t.RefusedRequests += n
			case o.verdict == string(observe.Failed), class(o.code) == "5xx":
				t.Errors += n
			}
		}
		if len(s.counts.duration.counts) == len(model.DurationBuckets)+1 {
			t.Latency = slices.Clone(s.counts.duration.counts)
		}
		totals[l] = t
	}
}
