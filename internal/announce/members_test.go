package announce

import (
	"net/netip"
	"testing"
	"time"
)

// A node that may not serve Gateways takes no address by the claims of its Lease, whatever their terms, and keeps nobody from
// one by its links.
func TestNodesThatMayNotServe(t *testing.T) {
	own := netip.PrefixFrom(a6, 64)
	for name, tc := range map[string]struct {
		serves func(string) (may, known bool)
		wins   string // the node that a1 falls to
		owner  string // the node that is said to have a6
		term   uint64
	}{
		"all may serve": {nil, "evil", "evil", 1001},
		"two may serve": {func(node string) (may, known bool) { return node != "evil", true }, "self", "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			m := newMembers("self", time.Minute, tc.serves)
			m.saw(member{Candidate: node("self"), renewed: "1", lasts: time.Minute}, now)
			m.saw(member{Candidate: node("evil", claims(a1, 1000), func(c *Candidate) { c.Links = []netip.Prefix{own} }), renewed: "1", lasts: time.Minute}, now)
			d := &decider{members: m, self: node("self", claims(a1, 1))}
			decisions, ok := d.decide([]netip.Addr{a1, a6}, now)
			if !ok {
				t.Fatal("nothing is decided")
			}
			if a := decisions[a1].announcement; a == nil || a.Node != tc.wins || a.Here != (tc.wins == "self") {
				t.Errorf("%s: %+v, want node %s", a1, a, tc.wins)
			}
			if got := decisions[a6]; got.owner != tc.owner || (tc.owner == "") != (got.announcement != nil) {
				t.Errorf("%s: %+v, want owner %q", a6, got, tc.owner)
			}
			if got := m.nextTerm(a1); got != tc.term {
				t.Errorf("the next term is %d, want %d", got, tc.term)
			}
		})
	}
}

// Until a node knows which nodes may serve Gateways it decides nothing: who answers for an address goes on.
func TestNothingIsDecidedUntilNodesAreKnown(t *testing.T) {
	now := time.Now()
	for _, known := range []bool{false, true} {
		m := newMembers("self", time.Minute, func(string) (bool, bool) { return known, known })
		m.saw(member{Candidate: node("self"), renewed: "1", lasts: time.Minute}, now)
		m.saw(member{Candidate: node("evil", claims(a1, 1000)), renewed: "1", lasts: time.Minute}, now)
		d := &decider{members: m, self: node("self", claims(a1, 1))}
		decisions, ok := d.decide([]netip.Addr{a1}, now)
		if ok != known || (len(decisions) > 0) != known {
			t.Errorf("known %t: decided %t: %+v", known, ok, decisions)
		}
		if !known && d.self.Claims[a1] != 1 {
			t.Errorf("the claims have changed: %v", d.self.Claims)
		}
	}
}
