package announce

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// member is a node whose Lease was seen.
type member struct {
	Candidate
	renewed string        // renewTime as it is written; only that it changes counts, not what the node's clock says
	lasts   time.Duration // without a change
	seen    time.Time     // by our clock, when it last changed
}

// members are the nodes with a Lease.
//
// Who is dead is told by our own view alone, and only while the view is good. It is good while our own renewals come back
// by the same watch that shows those of the others: then their silence is theirs. When the API server is out, or this
// node is cut off, or the watch hangs, nobody is judged; and once our renewals are back, the others have the time of
// their Leases to renew too.
type members struct {
	self string
	by   map[string]*member
	// serves reports whether a node may serve Gateways. Of others neither claims nor links count, for whoever has taken
	// such a node could take or veto every address by its Lease. Nothing is decided while that is not known.
	serves func(node string) (may, known bool)
	// since is when our own renewals began to come back without a gap.
	since time.Time
	// gap is how late they may be. It and the time between two renewals together must be less than a Lease lasts.
	gap time.Duration
}

// newMembers returns those of a node. serves nil is true for all.
func newMembers(self string, gap time.Duration, serves func(node string) (may, known bool)) *members {
	if serves == nil {
		serves = func(string) (may, known bool) { return true, true }
	}
	return &members{self: self, by: map[string]*member{}, gap: gap, serves: serves}
}

// saw takes in a Lease as the watch shows it, and reports whether it says something new besides that the node lives.
func (m *members) saw(l member, now time.Time) bool {
	old := m.by[l.Node]
	l.seen = now
	if old != nil && old.renewed == l.renewed {
		l.seen = old.seen
	} else if l.Node == m.self && (old == nil || now.Sub(old.seen) > m.gap) {
		m.since = now
	}
	m.by[l.Node] = &l
	return old == nil || old.Ready != l.Ready || !maps.Equal(old.Claims, l.Claims) || !slices.Equal(old.Links, l.Links) ||
		!slices.Equal(old.Accepts, l.Accepts)
}

// gone takes in that a Lease was deleted.
func (m *members) gone(node string) { delete(m.by, node) }

// keep drops the nodes that a complete list does not hold.
func (m *members) keep(nodes map[string]bool) {
	maps.DeleteFunc(m.by, func(node string, _ *member) bool { return !nodes[node] })
}

// live gives the other nodes that may serve Gateways and are not dead; ok is false while the view is not good enough to tell.
func (m *members) live(now time.Time) (others []Candidate, ok bool) {
	own := m.by[m.self]
	if own == nil || m.since.IsZero() || now.Sub(own.seen) > m.gap {
		return nil, false
	}
	if _, known := m.serves(m.self); !known {
		return nil, false
	}
	for _, o := range m.by {
		from := o.seen
		if from.Before(m.since) {
			from = m.since
		}
		if o.Node != m.self && m.mayServe(o.Node) && now.Sub(from) <= o.lasts {
			others = append(others, o.Candidate)
		}
	}
	return others, true
}

// mayServe reports whether a node is known to be one that may serve Gateways.
func (m *members) mayServe(node string) bool {
	may, known := m.serves(node)
	return may && known
}

// nextTerm is later than any term in which somebody who may serve Gateways, dead or alive, claims an address.
func (m *members) nextTerm(addr netip.Addr) uint64 {
	last := uint64(0)
	for _, o := range m.by {
		if m.mayServe(o.Node) {
			last = max(last, o.Claims[addr])
		}
	}
	return last + 1
}

// owner gives the node that has an address for its own; "" if none that may serve Gateways.
func (m *members) owner(addr netip.Addr) string {
	for _, o := range m.by {
		if !m.mayServe(o.Node) {
			continue
		}
		for _, p := range o.Links {
			if p.Addr() == addr {
				return o.Node
			}
		}
	}
	return ""
}
