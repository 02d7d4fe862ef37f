package datapath

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"

	"github.com/weft-mesh/weft/internal/state"
)

// nodes writes the map of the host's own addresses, from which Gateways come to pods' ports of the mesh: which of them the
// kernel takes depends on the route to the pod, so all count, those of bridges too. Gateways' addresses are not own ones:
// another node may have them next.
type nodes struct {
	*mirror[weftAddress, uint32]
	own map[netip.Addr]bool // what the map holds
}

func newNodes(t tables) (*nodes, error) {
	m, err := newMirror("nodes", t.nodes)
	if err != nil {
		return nil, err
	}
	return &nodes{mirror: m}, nil
}

// hostAddresses lists the host's own addresses.
func hostAddresses(st *state.State, snap *state.Snapshot) []netip.Addr {
	var out []netip.Addr
	for a := range st.HostAddresses.All(snap) {
		if addr := a.Prefix.Addr(); !a.Announced && !addr.IsLinkLocalUnicast() {
			out = append(out, addr)
		}
	}
	return out
}

// set writes the addresses. While one is missing, what comes from there counts as a stranger's.
func (n *nodes) set(addrs []netip.Addr) error {
	own, want := map[netip.Addr]bool{}, map[weftAddress]bool{}
	for _, a := range addrs {
		own[a], want[encodeAddr(a)] = true, true
	}
	if n.own != nil && maps.Equal(own, n.own) {
		return nil
	}
	var errs []error
	for a := range own {
		if err := n.put(encodeAddr(a), 1); err != nil {
			errs = append(errs, fmt.Errorf("node address %s: %w", a, err))
		}
	}
	errs = append(errs, n.prune(func(a weftAddress, _ uint32) bool { return want[a] }))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	n.own = own
	return nil
}

// addressesOfOthers gives the addresses of nodes, with the number that stands for the node; 0 where several say that they have one.
func addressesOfOthers(st *state.State, snap *state.Snapshot) map[weftAddress]uint32 {
	out := map[weftAddress]uint32{}
	for n := range st.NodeAddresses.All(snap) {
		number := nodeNumber(n.Node)
		for _, a := range n.Addresses {
			if other, taken := out[encodeAddr(a)]; taken && other != number {
				out[encodeAddr(a)] = 0
			} else {
				out[encodeAddr(a)] = number
			}
		}
	}
	return out
}

// nodeNumber is the same whoever reckons it. Two nodes that have the same one are counted together.
func nodeNumber(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return max(h.Sum32(), 1)
}

// setOtherNodes writes the addresses of other nodes. What comes from an address that is missing counts as a stranger's. This node's own
// are among them, and do no harm: programs look for these first.
func (r *reconciler) setOtherNodes(snap *state.Snapshot) error {
	want := addressesOfOthers(r.st, snap)
	var errs []error
	if r.synced { // before, a node may only not have been read yet
		errs = append(errs, r.otherNodes.prune(func(a weftAddress, _ uint32) bool { _, ok := want[a]; return ok }))
	}
	missing := 0
	for a, number := range want {
		err := r.otherNodes.put(a, number)
		if err == nil {
			continue
		}
		if missing++; missing == 1 {
			errs = append(errs, fmt.Errorf("address %s of a node: %w", decodeAddr(a), err))
		}
	}
	if missing > 1 {
		errs = append(errs, fmt.Errorf("%d addresses of nodes are not in the kernel", missing))
	}
	return errors.Join(errs...)
}
