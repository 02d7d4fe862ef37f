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

// claimants lists the pods that have an address by their object or their placement. Finished pods and those in the host's
// network do not count.
func (v *view) claimants(a netip.Addr) iter.Seq[*corev1.Pod] {
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
