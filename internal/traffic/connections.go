package traffic

import (
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// Connections counts TCP connections of the node's workloads.
type Connections struct {
	st  *state.State
	now func() time.Time

	mu   sync.Mutex
	sets *sets[tcp]
}

// tcp are the counts of one set of labels. Sent is from the source to the destination.
type tcp struct {
	opened, forwarded, failed, sent, received, retransmits uint64
	refused                                                map[string]uint64 // by reason
	rtt                                                    histogram
}

// maxReasons bounds the reasons of refusals in a set. There are fewer: this is for reasons that are added one day and
// hold something that a client chooses.
const maxReasons = 16

// NewConnections counts flows. st says who owns a pod.
func NewConnections(st *state.State) *Connections {
	return &Connections{st: st, now: time.Now, sets: newSets[tcp](MaxSets, MaxSetsPerNamespace)}
}

// Opened counts a connection that was established. Of its flow, the ends are read.
func (c *Connections) Opened(f *observe.Flow) {
	l := labelsOf(c.st, f)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sets.at(l, c.now()).opened++
}

// Ended counts a connection that has ended or was refused.
func (c *Connections) Ended(f *observe.Flow) {
	l := labelsOf(c.st, f)
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.sets.at(l, c.now())
	switch f.Verdict {
	case observe.Refused:
		if t.refused == nil {
			t.refused = map[string]uint64{}
		}
		reason := f.Reason
		if _, ok := t.refused[reason]; !ok && len(t.refused) >= maxReasons {
			reason = Overflow
		}
		t.refused[reason] += 1 + f.More
		return
	case observe.Failed:
		t.failed++
	default:
		t.forwarded++
	}
	t.sent += f.Sent
	t.received += f.Received
	t.retransmits += uint64(f.Retransmits)
	if f.RTT > 0 {
		t.rtt.observe(rttBuckets, f.RTT.Seconds())
	}
}
