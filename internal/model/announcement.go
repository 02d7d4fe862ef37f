package model

import "net/netip"

// Announcement says which node answers for an address of an AddressPool on the nodes' links.
type Announcement struct {
	Address netip.Addr `json:"address"`
	Node    string     `json:"node"`
	// Here is true on that node.
	Here bool `json:"here,omitempty"`
	// Holders are the live nodes that say that they answer; while an address moves, two.
	Holders []string `json:"holders,omitempty"`
}

// Key is the announcement's key in its table.
func (a *Announcement) Key() string { return a.Address.String() }
