package datapath

import (
	"errors"
	"fmt"
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
