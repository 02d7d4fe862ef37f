package announce

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// decider holds what this node claims and turns what it sees into what it does.
type decider struct {
	members *members
	self    Candidate // Claims are what the Lease is to say
}

// decision is about one address. A nil announcement leaves everything about the address as it is.
type decision struct {
	announcement *model.Announcement
	owner        string // the node whose own address it is: nobody may announce it
}

// decide gives a decision for each address, and changes the claims. Without a good view of the others it decides
// nothing: ok is false.
func (d *decider) decide(addrs []netip.Addr, now time.Time) (out map[netip.Addr]decision, ok bool) {
	others, ok := d.members.live(now)
	if !ok {
		return nil, false
	}
	out = make(map[netip.Addr]decision, len(addrs))
	all := append(others, d.self) // shares d.self.Claims
	for _, addr := range addrs {
		out[addr] = d.judge(addr, all)
	}
	return out, true
}

func (d *decider) judge(addr netip.Addr, all []Candidate) decision {
	if owner := d.members.owner(addr); owner != "" {
		delete(d.self.Claims, addr)
		return decision{owner: owner}
	}
	node := Elect(addr, all)
	a := &model.Announcement{Address: addr, Node: node, Here: node == d.self.Node}
	if _, claims := d.self.Claims[addr]; a.Here && !claims {
		d.self.Claims[addr] = d.members.nextTerm(addr)
	}
	for _, c := range all {
		if _, claims := c.Claims[addr]; claims {
			a.Holders = append(a.Holders, c.Node)
		}
	}
	slices.Sort(a.Holders)
	if !slices.Contains(a.Holders, node) {
		// It has not taken the address over yet, or nobody is ready: who answers goes on until another one does.
		return decision{}
	}
	if !a.Here {
		delete(d.self.Claims, addr)
		a.Holders = slices.DeleteFunc(a.Holders, func(n string) bool { return n == d.self.Node })
	}
	return decision{announcement: a}
}

// forget drops the claims to addresses that no Gateway has.
func (d *decider) forget(addrs []netip.Addr) {
	maps.DeleteFunc(d.self.Claims, func(a netip.Addr, _ uint64) bool { return !contains(addrs, a) })
}
