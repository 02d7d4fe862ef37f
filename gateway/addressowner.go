package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
)

// findOwners finds the namespace that each address belongs to: that of a Gateway that has it, else of the oldest that asks
// for it. Who has it comes first, so that an old Gateway does not take another namespace's address by asking for it. What a
// status says counts more than what is remembered, as in keep.
func (a *assigner) findOwners(gateways []*gwv1.Gateway) {
	remembered := func(gw *gwv1.Gateway) []netip.Addr {
		as, ok := a.v.assignments.Get(a.v.last, kube.Key(gw))
		if !ok {
			return nil
		}
		return as.addresses
	}
	for _, from := range []func(*gwv1.Gateway) []netip.Addr{statusAddresses, remembered, askedAddresses} {
		for _, gw := range gateways {
			asked, reserved := askedAddresses(gw), a.done[kube.Key(gw)].reserved
			for _, addr := range from(gw) {
				if a.owners[addr] == nil && (slices.Contains(asked, addr) || slices.Contains(reserved, addr)) {
					a.owners[addr] = gw
				}
			}
		}
	}
}

// askedAddresses returns the addresses that a Gateway's spec names.
func askedAddresses(gw *gwv1.Gateway) []netip.Addr {
	var out []netip.Addr
	for _, s := range gw.Spec.Addresses {
		if addr, err := netip.ParseAddr(s.Value); err == nil && addr.Zone() == "" && addressType(s) == gwv1.IPAddressType {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// foreign says that an address belongs to another namespace, which does not share it; "" if it does not. A node's own
// address, and those of a pool that says so, belong to nobody.
func (a *assigner) foreign(addr netip.Addr, gw *gwv1.Gateway) string {
	owner := a.owners[addr]
	switch {
	case owner == nil || owner.Namespace == gw.Namespace || within(a.shared, addr):
		return ""
	case !a.pooled(addr) && slices.Contains(a.v.cfg.NodeAddresses, addr):
		return ""
	case slices.Contains(sharedWith(owner), gw.Namespace):
		return ""
	}
	return fmt.Sprintf("%s belongs to Gateway %s of another namespace; its annotation %s can name this namespace, or sharing of the AddressPool can be Cluster",
		addr, kube.Key(owner), kube.AnnotationSharedWith)
}

// sharedWith lists the namespaces whose Gateways may have the addresses of a Gateway too.
func sharedWith(gw *gwv1.Gateway) []string {
	return strings.FieldsFunc(gw.Annotations[kube.AnnotationSharedWith], func(r rune) bool { return r == ',' || r == ' ' })
}
