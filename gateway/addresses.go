package gateway

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// addressUnit assigns addresses to Gateways. It is one for all, for what one has no other can have.
var addressUnit = unitKind{name: "addresses", stage: stageAddresses, compute: assignAddresses}

// assignment is which addresses a Gateway has.
type assignment struct {
	gateway   string
	addresses []netip.Addr
	// reserved are those of a pool's addresses that are kept for it, also while it cannot use them: an address does not
	// move while its Gateway is there and a pool holds it.
	reserved []netip.Addr
	// taken are ports of these addresses that belong to other Gateways.
	taken []transportPort
	// accepted and programmed hold what is wrong, for the conditions of these names.
	accepted, programmed problems
}

// assignedAddress is the index of assignments by address.
const assignedAddress = "address"

func newAssignments(db *state.DB) *state.Table[*assignment] {
	return state.NewTable(db, "gateway-assignments", func(a *assignment) string { return a.gateway }, state.Index[*assignment]{
		Name: assignedAddress, Of: func(a *assignment) []string {
			out := make([]string, len(a.addresses))
			for i, addr := range a.addresses {
				out[i] = addr.String()
			}
			return out
		},
	})
}

// assigner is one run of assignAddresses.
type assigner struct {
	v     *view
	pools []addressRange
	// shared are those of the pools whose addresses Gateways of several namespaces may have together.
	shared []addressRange
	used   map[netip.Addr]bool
	// owners are the Gateways whose namespaces the addresses belong to.
	owners map[netip.Addr]*gwv1.Gateway
	done   map[string]*assignment
}

// assignAddresses finds every Gateway's addresses, the older first. Where they are given here: those of its spec, else
// one of each family of the pools, else the node's.
func assignAddresses(v *view, _ string) ([]output, bool) {
	a := &assigner{v: v, used: map[netip.Addr]bool{}, owners: map[netip.Addr]*gwv1.Gateway{}, done: map[string]*assignment{}}
	for p := range v.objs.AddressPools.All(v.Snapshot) {
		ranges, _ := poolRanges(p)
		a.pools = append(a.pools, ranges...)
		if p.Spec.Sharing == weftv1.SharingCluster {
			a.shared = append(a.shared, ranges...)
		}
	}
	var gateways []*gwv1.Gateway
	parameters := map[string]string{} // what classes ask for that is not known here
	for c := range v.objs.GatewayClasses.All(v.Snapshot) {
		if string(c.Spec.ControllerName) != v.cfg.ControllerName {
			continue
		}
		if c.Spec.ParametersRef != nil {
			parameters[c.Name] = fmt.Sprintf("parametersRef of GatewayClass %s is not supported", c.Name)
		} else if m := kube.UnknownFieldsOf(c).Message(); m != "" {
			parameters[c.Name] = fmt.Sprintf("GatewayClass %s: %s", c.Name, m)
		}
		gateways = slices.AppendSeq(gateways, v.objs.Gateways.By(v.Snapshot, kube.ByClass, c.Name))
	}
	slices.SortFunc(gateways, func(x, y *gwv1.Gateway) int { return compareAge(x, y) })
	for _, gw := range gateways {
		as := &assignment{gateway: kube.Key(gw)}
		if m := parameters[string(gw.Spec.GatewayClassName)]; m != "" {
			as.accepted.add(string(gwv1.GatewayReasonInvalidParameters), m)
		}
		if gw.Spec.Infrastructure != nil && gw.Spec.Infrastructure.ParametersRef != nil {
			as.accepted.add(string(gwv1.GatewayReasonInvalidParameters), "infrastructure.parametersRef is not supported")
		}
		a.done[as.gateway] = as
	}
	if v.cfg.Addresses == AddressesOfStatus {
		a.fromStatus(gateways)
	} else {
		a.give(gateways)
	}
	a.claimPorts(gateways)
	var outs []output
	for _, gw := range gateways {
		outs = append(outs, out(v.assignments, kube.Key(gw), a.done[kube.Key(gw)]))
	}
	return outs, true
}

// fromStatus takes the addresses of the statuses, or what the controller said of why there is none. An address outside the
// pools is not the controller's: another controller wrote it, before the Gateway changed its class.
func (a *assigner) fromStatus(gateways []*gwv1.Gateway) {
	for _, gw := range gateways {
		as := a.done[kube.Key(gw)]
		as.addresses = slices.DeleteFunc(statusAddresses(gw), func(x netip.Addr) bool { return !a.pooled(x) })
		if len(as.addresses) == 0 {
			reason, why := string(gwv1.GatewayReasonAddressNotAssigned), "the controller has not given the Gateway an address"
			c := meta.FindStatusCondition(gw.Status.Conditions, string(gwv1.GatewayConditionProgrammed))
			if c != nil && c.Status == metav1.ConditionFalse && c.ObservedGeneration == gw.Generation && c.Message != "" {
				reason, why = c.Reason, c.Message
			}
			as.programmed.add(reason, why)
		}
	}
}

// statusAddresses returns the addresses that a Gateway's status tells of, without duplicates.
func statusAddresses(gw *gwv1.Gateway) []netip.Addr {
	var out []netip.Addr
	for _, s := range gw.Status.Addresses {
		if addr, err := netip.ParseAddr(s.Value); err == nil && addr.Zone() == "" && !slices.Contains(out, addr.Unmap()) {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

func (a *assigner) give(gateways []*gwv1.Gateway) {
	a.keep(gateways)
	a.findOwners(gateways)
	for _, gw := range gateways {
		a.static(gw)
	}
	for _, gw := range gateways {
		a.fromPools(gw)
	}
}

// keep reserves the addresses of pools that Gateways have. What a status tells counts more than what is remembered: of
// several controllers one writes, and another that takes over must go on with what that one gave.
func (a *assigner) keep(gateways []*gwv1.Gateway) {
	take := func(gw *gwv1.Gateway, addr netip.Addr) {
		as := a.done[kube.Key(gw)]
		asked := slices.ContainsFunc(gw.Spec.Addresses, func(s gwv1.GatewaySpecAddress) bool { return s.Value == addr.String() })
		if wantsPool(gw) && !asked && a.pooled(addr) && !a.used[addr] && !hasFamily(as.reserved, addr.Is4()) {
			as.reserved = append(as.reserved, addr)
			a.used[addr] = true
		}
	}
	for _, gw := range gateways {
		for _, addr := range statusAddresses(gw) {
			if slices.Contains(a.before(gw), addr) || a.unusable(addr, gw) == "" {
				take(gw, addr)
			}
		}
	}
	for _, gw := range gateways {
		for _, addr := range a.before(gw) {
			take(gw, addr)
		}
	}
}

// before returns what was reserved for a Gateway when addresses were last assigned.
func (a *assigner) before(gw *gwv1.Gateway) []netip.Addr {
	as, ok := a.v.assignments.Get(a.v.last, kube.Key(gw))
	if !ok {
		return nil
	}
	return as.reserved
}

func hasFamily(addrs []netip.Addr, is4 bool) bool {
	return slices.ContainsFunc(addrs, func(x netip.Addr) bool { return x.Is4() == is4 })
}

// wantsPool: a Gateway without an address, or with one of type IPAddress and no value.
func wantsPool(gw *gwv1.Gateway) bool {
	return len(gw.Spec.Addresses) == 0 || slices.ContainsFunc(gw.Spec.Addresses, func(s gwv1.GatewaySpecAddress) bool {
		return s.Value == "" && addressType(s) == gwv1.IPAddressType
	})
}

func addressType(s gwv1.GatewaySpecAddress) gwv1.AddressType {
	if s.Type == nil {
		return gwv1.IPAddressType
	}
	return *s.Type
}

// static takes the addresses of the spec.
func (a *assigner) static(gw *gwv1.Gateway) {
	as := a.done[kube.Key(gw)]
	for _, s := range gw.Spec.Addresses {
		if addressType(s) != gwv1.IPAddressType {
			as.accepted.add(string(gwv1.GatewayReasonUnsupportedAddress), fmt.Sprintf("address type %q is not supported; IPAddress is", short(string(addressType(s)))))
			continue
		}
		if s.Routability != "" {
			as.accepted.add(string(gwv1.GatewayReasonUnsupportedAddress), fmt.Sprintf("routability %q is not supported", short(string(s.Routability))))
			continue
		}
		if s.Value == "" {
			continue
		}
		addr, err := netip.ParseAddr(s.Value)
		if err != nil || addr.Zone() != "" {
			as.accepted.add(string(gwv1.GatewayReasonUnsupportedAddress), fmt.Sprintf("%q is not an address", short(s.Value)))
			continue
		}
		addr = addr.Unmap()
		if err := cmp.Or(a.unusable(addr, gw), a.foreign(addr, gw)); err != "" {
			as.programmed.add(string(gwv1.GatewayReasonAddressNotUsable), err)
			continue
		}
		a.used[addr] = true
		if !slices.Contains(as.addresses, addr) {
			as.addresses = append(as.addresses, addr)
		}
	}
}

// unusable says why a Gateway cannot have an address; "" is good. The addresses of pools are for Gateways, whatever
// Services name them in a field that is not the cluster's own. Outside of pools an older Service keeps its address.
func (a *assigner) unusable(addr netip.Addr, gw *gwv1.Gateway) string {
	switch {
	case !model.IsRoutable(addr):
		return fmt.Sprintf("%s is not an address that a Gateway can have", addr)
	case a.v.cfg.Addresses == AddressesOfNode && slices.Contains(a.v.cfg.NodeAddresses, addr):
		return ""
	case !a.pooled(addr) && (len(a.pools) > 0 || a.v.cfg.Addresses == AddressesOfPools):
		return fmt.Sprintf("%s is in no AddressPool", addr)
	}
	if pod := a.v.podAt(addr); pod != nil {
		return fmt.Sprintf("%s belongs to pod %s", addr, kube.Key(pod))
	}
	for s := range a.v.objs.Services.By(a.v.Snapshot, kube.ByAddress, addr.String()) {
		if clusterAddress(s, addr) || !a.pooled(addr) && a.v.mayName(s, addr) && older(s, gw) {
			return fmt.Sprintf("%s belongs to Service %s", addr, kube.Key(s))
		}
	}
	return ""
}

// fromPools returns an address of each family that the pools have, or where there is no pool, the node's.
func (a *assigner) fromPools(gw *gwv1.Gateway) {
	as := a.done[kube.Key(gw)]
	if !wantsPool(gw) || !as.accepted.ok() {
		return
	}
	if len(a.pools) == 0 && a.v.cfg.Addresses == AddressesOfPools {
		as.programmed.add(string(gwv1.GatewayReasonAddressNotAssigned),
			"there is no AddressPool; create one with addresses that lead to the nodes")
		return
	}
	if len(a.pools) == 0 {
		as.addresses = append(as.addresses, a.v.cfg.NodeAddresses...)
		if len(as.addresses) == 0 {
			as.programmed.add(string(gwv1.GatewayReasonAddressNotAssigned), "there is no AddressPool, and the node's address is not known")
		}
		return
	}
	for _, is4 := range []bool{true, false} {
		if hasFamily(as.reserved, is4) {
			continue
		}
		if addr, ok := a.free(is4, gw); ok {
			a.used[addr] = true
			as.reserved = append(as.reserved, addr)
		}
	}
	if len(as.reserved) == 0 {
		as.programmed.add(string(gwv1.GatewayReasonAddressNotAssigned), "no AddressPool has a free address left")
		return
	}
	as.addresses = append(as.addresses, as.reserved...)
}

// maxScan bounds how many addresses of a pool are tried: no more can be in use than there are Gateways, pods and Services.
const maxScan = 1 << 16

// free finds the lowest address that nobody has.
func (a *assigner) free(is4 bool, gw *gwv1.Gateway) (netip.Addr, bool) {
	scanned := 0
	for _, r := range a.pools {
		if r.first.Is4() != is4 {
			continue
		}
		for addr := r.first; addr.IsValid() && addr.Compare(r.last) <= 0 && scanned < maxScan; addr = addr.Next() {
			scanned++
			if !a.used[addr] && a.unusable(addr, gw) == "" {
				return addr, true
			}
		}
	}
	return netip.Addr{}, false
}

func (a *assigner) pooled(addr netip.Addr) bool { return within(a.pools, addr) }

// addressRange holds both ends.
type addressRange struct{ first, last netip.Addr }

func (r addressRange) contains(a netip.Addr) bool {
	return r.first.Is4() == a.Is4() && r.first.Compare(a) <= 0 && a.Compare(r.last) <= 0
}

func within(ranges []addressRange, addr netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r addressRange) bool { return r.contains(addr) })
}

// poolRanges reads a pool's addresses, CIDRs and ranges.
func poolRanges(p *weftv1.AddressPool) ([]addressRange, *problems) {
	var out []addressRange
	var t problems
	for _, text := range p.Spec.Addresses {
		if first, last, ok := strings.Cut(text, "-"); ok {
			a, errA := netip.ParseAddr(strings.TrimSpace(first))
			b, errB := netip.ParseAddr(strings.TrimSpace(last))
			if errA != nil || errB != nil || a.Is4() != b.Is4() || b.Less(a) || a.Zone()+b.Zone() != "" {
				t.add("Invalid", fmt.Sprintf("%q is not a range of addresses", short(text)))
				continue
			}
			out = append(out, addressRange{a, b})
			continue
		}
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
			out = append(out, addressRange{a, a})
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			t.add("Invalid", fmt.Sprintf("%q is neither an address, a CIDR nor a range a-b", short(text)))
			continue
		}
		out = append(out, addressRange{prefix.Masked().Addr(), lastOf(prefix)})
	}
	return out, &t
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

var poolUnits = unitKind{
	name: "AddressPool", stage: stageModel, compute: poolStatus,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*weftv1.AddressPool] { return o.AddressPools }),
}

// poolStatus is the status of an AddressPool.
func poolStatus(v *view, key string) ([]output, bool) {
	p, ok := v.objs.AddressPools.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	ranges, t := poolRanges(p)
	if note, ok := p.Annotations[kube.AnnotationStandIn]; ok {
		t.add("Invalid", note)
	}
	if len(ranges) == 0 {
		t.add("Invalid", "the pool has no addresses")
	}
	return []output{v.status(&model.Status{
		Object:     model.ObjectRef{Group: weftv1.Group, Kind: "AddressPool", Name: p.Name},
		Generation: p.Generation,
		Conditions: []model.Condition{t.condition(model.ConditionAccepted, "Accepted")},
	})}, true
}
