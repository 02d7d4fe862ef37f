package announce

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// Candidate is a node as its Lease shows it.
type Candidate struct {
	Node  string
	Ready bool
	// Claims are the addresses that the node answers for, with the terms in which it took them over.
	Claims map[netip.Addr]uint64
	// Links are the node's own addresses, with the prefixes that are on link by them.
	Links []netip.Prefix
	// Addresses are all of the node's own, where its Gateways' connections to pods may come from: model.MaxNodeAddresses at most. They play
	// no part in the election.
	Addresses []netip.Addr
	// Accepts are the transports that the node takes, sorted. They play no part in the election.
	Accepts []model.Transport
}

// Elect gives the node that is to answer for an address; "" if none is ready. It depends on nothing but its arguments,
// in whatever order, so all nodes that see the same candidates elect the same one.
//
//   - A ready node that answers for the address keeps it. Of several the one of the latest term does: it took the address
//     over from the others, which were taken for dead.
//   - Else the ready nodes on whose links the address is have it by rendezvous hashing, or where it is on nobody's, all
//     ready nodes: then a router sends it there.
func Elect(addr netip.Addr, candidates []Candidate) string {
	best, term := "", uint64(0)
	for i := range candidates {
		c := &candidates[i]
		t, claims := c.Claims[addr]
		if c.Ready && claims && (best == "" || t > term || t == term && outranks(addr, c.Node, best)) {
			best, term = c.Node, t
		}
	}
	if best != "" {
		return best
	}
	near := false
	for i := range candidates {
		c := &candidates[i]
		if !c.Ready || near && !c.onLink(addr) {
			continue
		}
		if closer := !near && c.onLink(addr); closer || best == "" || outranks(addr, c.Node, best) {
			best, near = c.Node, near || closer
		}
	}
	return best
}

func (c *Candidate) onLink(addr netip.Addr) bool {
	return slices.ContainsFunc(c.Links, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// outranks compares two nodes by their rendezvous hashes for an address.
func outranks(addr netip.Addr, a, b string) bool {
	x, y := score(addr, a), score(addr, b)
	return x > y || x == y && a > b
}

// score is a node's weight for an address. The hash must be the same in all versions.
func score(addr netip.Addr, node string) uint64 {
	text := addr.As16()
	sum := sha256.Sum256(append(text[:], node...))
	return binary.BigEndian.Uint64(sum[:])
}
