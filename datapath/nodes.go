package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/weft-mesh/weft/internal/hostaddr"
)

// nodeAddresses lists the host's own addresses, by which the kubelet probes pods: which of them the kernel takes depends
// on the route to the pod, so all count, those of bridges too. Gateways' addresses are no own ones: others may have them
// next. Each pod's link has a link-local one, which no probe comes from.
func nodeAddresses() ([]netip.Addr, error) {
	return hostaddr.Own()
}

// followNode writes the node's own addresses: they change while it runs, with the first pod where a CNI plugin then makes
// its bridge. The caller holds the lock.
func (r *reconciler) followNode() {
	if r.nodeAddresses == nil {
		return
	}
	addrs, err := r.nodeAddresses()
	if err == nil {
		err = r.setNodes(addrs)
	}
	if err != nil {
		r.log.Error("the kubelet's probes of strict pods may fail: the node's addresses are not known", "error", err)
	}
}

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
