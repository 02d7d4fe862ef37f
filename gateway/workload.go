package gateway

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var workloadUnits = unitKind{
	name: "workload", stage: stageModel, compute: workload,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*corev1.Pod] { return o.Pods }),
}

// workload translates a Pod.
func workload(v *view, key string) ([]output, bool) {
	pod, ok := v.objs.Pods.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	var t problems
	w := v.member(pod, &t)
	ref := model.ObjectRef{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name}
	if w == nil {
		return v.objectStatus(ref, pod.Generation, &t), true
	}
	w.Labels = pod.Labels
	w.Node = pod.Spec.NodeName
	v.place(w, pod, &t)
	// What is enforced in the pod's network namespace does not depend on its addresses, which others may claim.
	w.Local = w.NetNS != "" || len(w.Addresses)+len(w.Contested) > 0 && v.cfg.Node != "" && pod.Spec.NodeName == v.cfg.Node
	if w.Local {
		w.Probes = v.calls(pod, &t)
	}
	w.TraceSampling = v.traceSampling(pod.Namespace, &t)
	w.Policy = v.policyFor(pod, &t)
	outs := []output{out(v.st.Workloads, w.Key(), w)}
	return append(outs, v.objectStatus(ref, pod.Generation, &t)...), true
}

// member says what a pod is to the mesh: addresses, mode and identity. It is nil for pods that take no part: those in
// the host's network and finished ones. It reads the pod's namespace and the pods that have the same addresses.
func (v *view) member(pod *corev1.Pod, t *problems) *model.Workload {
	if pod.Spec.HostNetwork || kube.Ended(pod) {
		return nil
	}
	w := &model.Workload{Namespace: pod.Namespace, Name: pod.Name, ServiceAccount: kube.ServiceAccountOf(pod), Owner: ownerOf(pod)}
	w.MTLS = v.mtlsMode(pod, t)
	switch {
	case w.MTLS == model.MTLSDisabled:
	case v.cfg.Addresses != AddressesOfNode && kube.IsMirror(pod):
		// Its node alone says that it is there, and could say so of any: the cluster's CA signs nothing for it.
		t.add("NoIdentity", fmt.Sprintf("a static pod has no ServiceAccount, and so no identity; it is %s without one", w.MTLS))
	default:
		w.Identity = model.NewIdentity(v.cfg.TrustDomain, pod.Namespace, w.ServiceAccount)
	}
	addrs, bad := v.addresses(pod)
	for _, b := range bad {
		t.add("Invalid", fmt.Sprintf("%q is not an address that a pod can have", short(b)))
	}
	for _, a := range addrs {
		claimants := v.claimants(a)
		other, contested := v.claimed(claimants, pod)
		switch {
		case !slices.Contains(claimants, pod):
			t.add("AddressConflict", fmt.Sprintf("address %s is that of pod %s, by what the CNI gave it or by its node's podCIDRs; "+
				"this pod is not in the mesh with it", a, kube.Key(other)))
		case contested:
			t.add("AddressConflict", fmt.Sprintf("address %s is claimed by pod %s too: nobody has an identity there, "+
				"and connections that must be authenticated are refused, until one of the two is gone", a, kube.Key(other)))
			w.Contested = append(w.Contested, a)
		case other != nil && older(other, pod):
			t.add("AddressConflict", fmt.Sprintf("address %s belongs to the older pod %s; this pod is not in the mesh with it", a, kube.Key(other)))
		default:
			w.Addresses = append(w.Addresses, a)
		}
	}
	return w
}

// claimed returns the oldest of the claimants of an address beside pod, if there is one. The address is contested if one
// of all that claim it has an identity: nobody can tell who is there.
func (v *view) claimed(claimants []*corev1.Pod, pod *corev1.Pod) (other *corev1.Pod, contested bool) {
	var ignored problems
	for _, p := range claimants {
		contested = contested || v.mtlsMode(p, &ignored) != model.MTLSDisabled
		if kube.Key(p) != kube.Key(pod) && (other == nil || older(p, other)) {
			other = p
		}
	}
	return other, contested && other != nil
}

// contested reports whether nobody can tell which pod has an address, so that nothing is sent there.
func (v *view) contested(a netip.Addr) bool {
	claimants := v.claimants(a)
	owner := oldest(claimants)
	if owner == nil {
		return false
	}
	_, contested := v.claimed(claimants, owner)
	return contested
}

// mtlsMode returns the mTLS mode of a pod and reports a label that is not understood.
func (v *view) mtlsMode(pod *corev1.Pod, t *problems) model.MTLSMode {
	m := v.objs.Mode(v.Snapshot, pod)
	if m.Problem != "" {
		t.add("Invalid", m.Problem)
	}
	return m.Mode
}

// traceSampling returns what a namespace wants; see model.Workload.
func (v *view) traceSampling(namespace string, t *problems) *float64 {
	percent, problem := v.objs.TraceSampling(v.Snapshot, namespace)
	if problem != "" {
		t.add("Invalid", problem)
	}
	return percent
}

// podAt returns the pod that owns an address: of those that claim it, the oldest, then the first by name.
func (v *view) podAt(a netip.Addr) *corev1.Pod { return oldest(v.claimants(a)) }

func oldest(pods []*corev1.Pod) *corev1.Pod {
	var owner *corev1.Pod
	for _, p := range pods {
		if owner == nil || older(p, owner) {
			owner = p
		}
	}
	return owner
}

// older orders objects by creation, then by namespace and name.
func older(a, b metav1.Object) bool { return compareAge(a, b) < 0 }

func compareAge(a, b metav1.Object) int {
	return compareCreated(a.GetCreationTimestamp().Time, kube.Key(a), b.GetCreationTimestamp().Time, kube.Key(b))
}

// compareCreated is the Gateway API's order of objects that are otherwise equal: the older first, then by key.
func compareCreated(a time.Time, aKey string, b time.Time, bKey string) int {
	return cmp.Or(a.Compare(b), strings.Compare(aKey, bKey))
}
