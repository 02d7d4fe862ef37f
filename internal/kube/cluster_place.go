package kube

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weft-mesh/weft/internal/state"
)

// Place is where a pod of this node runs. Only the node knows it, from its CNI.
type Place struct {
	NetNS  string // name of the network namespace, a file in /run/netns
	Cgroup string // path of the pod's cgroup below the cgroup2 mount; "" if not known
	// Addresses are those that the CNI gave, separated by commas. They hold until the pod's status has one of them: the
	// kubelet reports them after the pod has started, and the pod must be in the mesh by then. Before that a status may
	// tell those of an earlier sandbox, which are another pod's by now.
	Addresses string
}

// placed is a place and whose it is.
type placed struct {
	Place
	pod string // namespace/name
}

// Place tells where the pod with a UID runs; the zero Place forgets it. The pod itself may come before or after. The
// UID ties the place to this pod, and not to a later one of its name. It is the UID that the node knows: NodeUID.
func (c *Cluster) Place(namespace, name, uid string, p Place) {
	key := namespace + "/" + name
	c.mu.Lock()
	if p == (Place{}) {
		delete(c.places, uid)
	} else {
		c.places[uid] = placed{Place: p, pod: key}
	}
	c.mu.Unlock()
	w := c.objs.DB.Write(c.objs.Pods)
	defer w.Abort()
	old, ok := c.objs.Pods.Get(w.Snapshot(), key)
	if !ok || NodeUID(old) != uid {
		return
	}
	pod := old.DeepCopy()
	c.place(pod)
	c.objs.Pods.Put(w, pod)
	w.Commit()
}

// place writes what is known of a pod's place into its annotations.
func (c *Cluster) place(obj runtime.Object) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	c.mu.Lock()
	p := c.places[NodeUID(pod)]
	c.mu.Unlock()
	if p.pod != pod.Namespace+"/"+pod.Name || pod.Spec.HostNetwork {
		p = placed{}
	}
	if reported(pod, p.Addresses) {
		p.Addresses = ""
	}
	for key, value := range map[string]string{
		AnnotationNetNS: p.NetNS, AnnotationCgroup: p.Cgroup, AnnotationIP: p.Addresses,
	} {
		if value == "" {
			delete(pod.Annotations, key)
			continue
		}
		annotate(pod, key, value)
	}
	if len(pod.Annotations) == 0 {
		pod.Annotations = nil
	}
}

// reported tells whether a pod's status has one of some addresses, which are separated by commas.
func reported(pod *corev1.Pod, addresses string) bool {
	for given := range strings.SplitSeq(addresses, ",") {
		a, err := netip.ParseAddr(given)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return sameAddress(ip.IP, a) }) ||
			sameAddress(pod.Status.PodIP, a) {
			return true
		}
	}
	return false
}

func sameAddress(text string, a netip.Addr) bool {
	b, err := netip.ParseAddr(text)
	return err == nil && a.Unmap() == b.Unmap()
}

// NodeUID is the UID by which kubelet and container runtime know a pod. It is that of its object but for a static pod,
// which the kubelet read from a file: its object only mirrors it, and an annotation tells the UID. Users can write that
// annotation, so a place holds for one name only, whose pods they could make anyway.
func NodeUID(p *corev1.Pod) string {
	if uid := p.Annotations[corev1.MirrorPodAnnotationKey]; uid != "" {
		return uid
	}
	return string(p.UID)
}

// NodePod is a pod with a network namespace of its own.
type NodePod struct{ Namespace, Name, UID, NetNS string }

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

// ownsUID tells whether of two pods with one NodeUID a is the one that it belongs to.
func ownsUID(a, b *corev1.Pod) bool {
	if x, y := string(a.UID) == NodeUID(a), string(b.UID) == NodeUID(b); x != y {
		return x
	}
	return a.CreationTimestamp.Before(&b.CreationTimestamp)
}

func nodePod(p *corev1.Pod) NodePod {
	return NodePod{Namespace: p.Namespace, Name: p.Name, UID: NodeUID(p), NetNS: p.Annotations[AnnotationNetNS]}
}
