// Package announce chooses, for each address of an AddressPool that a Gateway has, the one node that answers for it on
// the nodes' links (by ARP and NDP). It decides; package datapath does it.
//
// Every agent keeps a Lease, weft-agent-<node> in weft-system, renewed every 2 s, that says whether its Envoy serves,
// which addresses it answers for and on which links the node is. It watches those of the others and decides alone:
// Elect is a pure function, so agents that see the same agree.
//
//   - Who answers for an address keeps it while its Lease lives and its Envoy serves. A node that comes (back) gets what
//     falls to it later: nothing moves for its sake, for to move an address cuts its connections.
//   - A node whose Lease ends (6 s), or whose Envoy is gone for 3 s, loses its addresses to others by rendezvous hashing:
//     the other addresses stay where they are.
//   - A live node gives an address up when the Lease of the next one says that this has it, not before.
//   - An agent that restarts finds its claims in its own Lease; in less than 6 s nobody notices. It does not release its
//     Lease when it ends, for the kernel and Envoy go on without it.
//   - An agent that does not see its own renewals come back decides nothing: an outage of the API server moves no
//     address.
//
// With Config.Serves, what a Lease says of addresses counts only for nodes that may serve Gateways, which others than the node
// itself decide. Among those every one is trusted: its Lease can take any address.
//
// Of a node that is cut off from the API server alone, both it and the next one answer, until it is back and sees that it
// lost the address: to answer twice, with the same configuration, is less bad than not at all. The later claim wins, by
// terms that count up (no clocks are compared), so the address does not move again then.
//
// What one Lease costs is one write in 2 s, and each write goes to every agent: in clusters of hundreds of nodes, let
// some of them announce, and the others not (weft agent --announce=false, --announce-nodes).
//
// Files: elect.go (pure), members.go (who lives), decide.go (pure, but for the clock it is given), lease.go (what a Lease
// says), watch.go and renew.go (the API server), elector.go (the loop).
package announce
