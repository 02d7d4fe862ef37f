package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/weft-mesh/weft/internal/state"
)

// hostAddresses lists the host's own addresses, by which the kubelet probes pods: which of them the kernel takes depends
// on the route to the pod, so all count, those of bridges too. Gateways' addresses are not own ones: another node may have
// them next. The caller holds the lock.
func (r *reconciler) hostAddresses(snap *state.Snapshot) []netip.Addr {
	var out []netip.Addr
	for a := range r.st.HostAddresses.All(snap) {
		if addr := a.Prefix.Addr(); !a.Announced && !addr.IsLinkLocalUnicast() {
			out = append(out, addr)
		}
	}
	return out
}

// setNodes writes the node's addresses. While one is missing, the kubelet's probes of strict pods may fail.
func (r *reconciler) setNodes(addrs []netip.Addr) error {
	own, want := map[netip.Addr]bool{}, map[weftAddress]bool{}
	for _, a := range addrs {
		own[a], want[encodeAddr(a)] = true, true
	}
	if r.own != nil && maps.Equal(own, r.own) {
		return nil
	}
	var errs []error
	for a := range own {
		if err := r.nodes.put(encodeAddr(a), 1); err != nil {
			errs = append(errs, fmt.Errorf("node address %s: %w", a, err))
		}
	}
	errs = append(errs, r.nodes.prune(func(a weftAddress, _ uint32) bool { return want[a] }))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.own = own
	return nil
}

// isNode tells whether an address is the host's own. The caller holds the lock.
func (r *reconciler) isNode(a netip.Addr) bool { return r.own[a.Unmap()] }
