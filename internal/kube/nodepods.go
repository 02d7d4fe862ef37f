package kube

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/internal/state"
)

// NodeUID is the UID by which the kubelet and the container runtime know a pod. It is that of its object, except for a static
// pod, which the kubelet read from a file: its object only mirrors it, and an annotation has the UID. Users can write that
// annotation, so a placement is of one name too, whose pods they could make anyway.
func NodeUID(p *corev1.Pod) string {
	if uid := p.Annotations[corev1.MirrorPodAnnotationKey]; uid != "" {
		return uid
	}
	return string(p.UID)
}

// NodePod is a pod with a network namespace of its own.
type NodePod struct{ Namespace, Name, UID string }

// NodePods lists the pods of a node that have a network namespace of their own, placed or not, in the order of their
// names. Of those that claim one UID there is one: whoever can make a pod can write another's UID into its annotation,
// and would get what runs by that UID. It is the pod whose UID it is, else the oldest, for a static pod's mirror is there
// before others can read its UID.
func (o *Objects) NodePods(s *state.Snapshot, node string) []NodePod {
	owners := map[string]*corev1.Pod{}
	var pods []*corev1.Pod
	for p := range o.Pods.By(s, ByNode, node) {
		pods = append(pods, p)
		if uid := NodeUID(p); owners[uid] == nil || ownsUID(p, owners[uid]) {
			owners[uid] = p
		}
	}
	var out []NodePod
	for _, p := range pods {
		if !p.Spec.HostNetwork && owners[NodeUID(p)] == p {
			out = append(out, nodePod(p))
		}
	}
	return slices.Clip(out)
}

// ownsUID reports whether of two pods with one NodeUID a is the one that it belongs to.
func ownsUID(a, b *corev1.Pod) bool {
	if x, y := string(a.UID) == NodeUID(a), string(b.UID) == NodeUID(b); x != y {
		return x
	}
	return a.CreationTimestamp.Before(&b.CreationTimestamp)
}

func nodePod(p *corev1.Pod) NodePod {
	return NodePod{Namespace: p.Namespace, Name: p.Name, UID: NodeUID(p)}
}
