package gateway

import (
	"fmt"
	"iter"
	"net/netip"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// placement returns where a pod runs, nil if it does not run on this node or that is not known.
func (v *view) placement(pod *corev1.Pod) *model.Placement {
	if v.cfg.Addresses != AddressesOfNode && pod.Spec.NodeName != v.cfg.Node {
		return nil // of the cluster's pods, most run elsewhere
	}
	p, _ := v.st.Placements.Get(v.Snapshot, model.PlacementKey(pod.Namespace, pod.Name, kube.NodeUID(pod)))
	return p
}

// place says in a workload where its pod runs. Of two pods with one network namespace the older has it: a pod's identity
// depends on the namespace.
func (v *view) place(w *model.Workload, pod *corev1.Pod, t *problems) {
	at := v.placement(pod)
	if at == nil {
		return
	}
	w.Cgroup = at.Cgroup
	for p := range v.st.Placements.By(v.Snapshot, state.ByNetNS, at.NetNS) {
		if other := v.placed(p); other != nil && older(other, pod) {
			t.add("NetNSConflict", fmt.Sprintf("network namespace %s belongs to the older pod %s", short(path.Base(at.NetNS)), kube.Key(other)))
			return
		}
	}
	w.NetNS = at.NetNS
}

// placed returns the pod of a placement, nil if it is not in the mesh.
func (v *view) placed(p *model.Placement) *corev1.Pod {
	pod, ok := v.objs.Pods.Get(v.Snapshot, model.Key(p.Namespace, p.Name))
	if !ok || kube.NodeUID(pod) != p.UID || pod.Spec.HostNetwork || kube.Ended(pod) {
		return nil
	}
	return pod
}

// addresses returns a pod's addresses, sorted, without duplicates: those that its placement has while the Pod has none of
// them, else the Pod's. What is not an address of a pod is left out and returned in bad.
func (v *view) addresses(pod *corev1.Pod) (addrs []netip.Addr, bad []string) {
	addrs, bad = kube.PodAddresses(pod)
	at := v.placement(pod)
	if at == nil || slices.ContainsFunc(at.Addresses, func(a netip.Addr) bool { return slices.Contains(addrs, a.Unmap()) }) {
		return addrs, bad
	}
	var given []netip.Addr
	for _, a := range at.Addresses {
		if model.IsRoutable(a) {
			given = append(given, a.Unmap())
		}
	}
	if len(given) == 0 {
		return addrs, bad
	}
	slices.SortFunc(given, netip.Addr.Compare)
	return slices.Compact(given), nil
}

// claimants lists the pods that have an address. Where several claim one, the claims that are known to be wrong do not count:
// what the CNI gave a pod of this node beats every status, and an address of a node's podCIDRs is that node's to give, where the
// CNI gives addresses by them.
func (v *view) claimants(a netip.Addr) []*corev1.Pod {
	all := slices.Collect(v.claims(a))
	if len(all) < 2 {
		return all
	}
	given := slices.DeleteFunc(slices.Clone(all), func(p *corev1.Pod) bool { return !v.given(p, a) })
	if len(given) > 0 {
		return given
	}
	in := func(p *corev1.Pod) bool { return contains(v.podRanges(p.Spec.NodeName), a) }
	if !slices.ContainsFunc(all, in) || !v.addressesFromRanges() {
		return all
	}
	return slices.DeleteFunc(all, func(p *corev1.Pod) bool {
		return !in(p) && slices.ContainsFunc(v.podRanges(p.Spec.NodeName), func(r netip.Prefix) bool { return sameFamily(r.Addr(), a) })
	})
}

// given reports whether the CNI gave an address to a pod of this node.
func (v *view) given(pod *corev1.Pod, a netip.Addr) bool {
	at := v.placement(pod)
	return at != nil && slices.ContainsFunc(at.Addresses, func(b netip.Addr) bool { return b.Unmap() == a })
}

// podRanges returns the podCIDRs of a node.
func (v *view) podRanges(node string) []netip.Prefix {
	n, ok := v.objs.Nodes.Get(v.Snapshot, model.Key("", node))
	if !ok {
		return nil
	}
	return podCIDRs(n)
}

func podCIDRs(n *corev1.Node) (out []netip.Prefix) {
	for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// addressesFromRanges reports whether this cluster's CNI gives pods addresses of their nodes' podCIDRs. Many do not, though the
// nodes have some. It is judged by what it gave the pods of this node, for what other nodes say may be made up.
func (v *view) addressesFromRanges() bool {
	own, seen := v.podRanges(v.cfg.Node), false
	for p := range v.st.Placements.All(v.Snapshot) {
		for _, a := range p.Addresses {
			if !model.IsRoutable(a) {
				continue
			}
			if !contains(own, a.Unmap()) {
				return false
			}
			seen = true
		}
	}
	return seen
}

func contains(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

func sameFamily(a, b netip.Addr) bool { return a.Unmap().Is4() == b.Unmap().Is4() }

// claims lists the pods that have an address by their object or their placement. Finished pods and those in the host's
// network do not count.
func (v *view) claims(a netip.Addr) iter.Seq[*corev1.Pod] {
	has := func(p *corev1.Pod) bool {
		addrs, _ := v.addresses(p)
		return slices.Contains(addrs, a)
	}
	return func(yield func(*corev1.Pod) bool) {
		byObject := map[string]bool{}
		for p := range v.objs.Pods.By(v.Snapshot, kube.ByAddress, a.String()) {
			byObject[kube.Key(p)] = true
			if !p.Spec.HostNetwork && !kube.Ended(p) && has(p) && !yield(p) {
				return
			}
		}
		for at := range v.st.Placements.By(v.Snapshot, state.ByAddress, a.String()) {
			if p := v.placed(at); p != nil && !byObject[kube.Key(p)] && has(p) && !yield(p) {
				return
			}
		}
	}
}
