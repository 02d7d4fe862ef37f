package kube

import (
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/internal/state"
)

// Namespace is where the mesh's own parts run.
const Namespace = "weft-system"

// ServiceAccountOf returns the name of the ServiceAccount that a pod runs as.
func ServiceAccountOf(p *corev1.Pod) string {
	if p.Spec.ServiceAccountName == "" {
		return "default"
	}
	return p.Spec.ServiceAccountName
}

// IsMirror reports whether a pod is the mirror of a static pod, or claims to be.
func IsMirror(p *corev1.Pod) bool { return p.Annotations[corev1.MirrorPodAnnotationKey] != "" }

// Ended reports whether a pod has come to its end and will not run again.
func Ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// RunsAs reports whether a pod of a ServiceAccount, with a network of its own, is on a node and has not ended. The mirror
// of a static pod runs as nobody: a node can make one in any namespace, but none that names a ServiceAccount.
func (o *Objects) RunsAs(s *state.Snapshot, node, namespace, serviceAccount string) bool {
	if node == "" {
		return false
	}
	for p := range o.Pods.By(s, ByNode, node) {
		if p.Namespace == namespace && ServiceAccountOf(p) == serviceAccount && !IsMirror(p) && !p.Spec.HostNetwork && !Ended(p) {
			return true
		}
	}
	return false
}

// ComponentPods returns the addresses of the pods of a part of the mesh that have not ended, the ready ones first.
func (o *Objects) ComponentPods(s *state.Snapshot, component string) []netip.Addr {
	var ready, others []netip.Addr
	for p := range o.componentPods(s, component) {
		addrs, _ := PodAddresses(p)
		if len(addrs) == 0 {
			continue
		}
		if isReady := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}); isReady {
			ready = append(ready, addrs[0])
		} else {
			others = append(others, addrs[0])
		}
	}
	return slices.Concat(ready, others)
}

// ComponentNodes returns the names of the nodes on which a pod of a part of the mesh has not ended, sorted.
func (o *Objects) ComponentNodes(s *state.Snapshot, component string) []string {
	var out []string
	for p := range o.componentPods(s, component) {
		if p.Spec.NodeName != "" {
			out = append(out, p.Spec.NodeName)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// componentPods gives the pods of a part of the mesh that have not ended.
func (o *Objects) componentPods(s *state.Snapshot, component string) iter.Seq[*corev1.Pod] {
	return func(yield func(*corev1.Pod) bool) {
		for p := range o.Pods.By(s, ByLabel, LabelKey(Namespace, "app.kubernetes.io/component", component)) {
			if p.Labels["app.kubernetes.io/name"] == "weft" && !Ended(p) && !yield(p) {
				return
			}
		}
	}
}
