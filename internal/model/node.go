package model

import (
	"net/netip"
	"slices"
	"strings"
)

// Transport is a way by which a node takes authenticated connections for its pods. The name holds the way's version.
type Transport string

const (
	// TransportHBONE is HTTP/2 CONNECT over mTLS. Every node takes it, also one that says nothing.
	TransportHBONE Transport = "hbone"
	// TransportHTTP is HTTP over mTLS, without a CONNECT around it.
	TransportHTTP Transport = "http/1"
	// TransportTunnel is a stream in a session of weft tunnel.
	TransportTunnel Transport = "tunnel/1"
)

// transports are the ways that this version of Weft knows.
var transports = []Transport{TransportHBONE, TransportHTTP, TransportTunnel}

// Transports returns those of the names that this version knows, sorted and each once. The others are left out: a newer
// version may have written them.
func Transports(names []string) []Transport {
	var out []Transport
	for _, t := range transports {
		if slices.Contains(names, string(t)) {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}

// TransportNames returns the names of ways, separated by commas.
func TransportNames(ts []Transport) string {
	names := make([]string, len(ts))
	for i, t := range ts {
		names[i] = string(t)
	}
	return strings.Join(names, ",")
}

// Node is what a node says of itself. It says nothing until its Envoy has accepted what its agent built.
type Node struct {
	Name    string      `json:"name"`
	Accepts []Transport `json:"accepts"` // sorted
}

// Key is the node's name.
func (n *Node) Key() string { return n.Name }

// MaxNodeAddresses bounds the addresses of a node that count as its own. A node says itself which it has.
const MaxNodeAddresses = 32

// NodeAddresses are addresses of a node by one source: its Node object, or its agent's Lease.
type NodeAddresses struct {
	Source    string       `json:"source"` // Node or Lease
	Node      string       `json:"node"`
	Addresses []netip.Addr `json:"addresses"` // MaxNodeAddresses at most
}

// Key is the source and the node.
func (n *NodeAddresses) Key() string { return n.Source + "/" + n.Node }
