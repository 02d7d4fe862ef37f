package model

import (
	"fmt"
	"net/netip"
)

// HostAddress is an address of one of the host's links. Loopback, multicast and IPv6 link-local addresses have no
// row.
type HostAddress struct {
	Link   int // index of the link
	Prefix netip.Prefix
	// Neighbours reports whether the link is up and its neighbours ask for addresses by ARP or NDP.
	Neighbours bool
	// Announced reports whether the agent put the address there for a Gateway. It may move to another node.
	Announced bool
}

// Key is the link and the prefix: 3/192.0.2.7/24. A link can have one address with several lengths of its prefix.
func (h *HostAddress) Key() string { return fmt.Sprintf("%d/%s", h.Link, h.Prefix) }
