package kube

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Place is where a pod of this node runs. Only the node knows it, from its CNI.
type Place struct {
	NetNS  string // name of the network namespace, a file in /run/netns
	Cgroup string // path of the pod's cgroup below the cgroup2 mount; "" if not known
	// Addresses are those that the CNI gave, separated by commas. They hold until the pod's status has some: the kubelet
	// reports them after the pod has started, and the pod must be in the mesh by then.
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
	if pod.Status.PodIP != "" || len(pod.Status.PodIPs) > 0 {
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
// names.
func (o *Objects) NodePods(s *state.Snapshot, node string) []NodePod {
	var out []NodePod
	for p := range o.Pods.By(s, ByNode, node) {
		if !p.Spec.HostNetwork {
			out = append(out, nodePod(p))
		}
	}
	return slices.Clip(out)
}

func nodePod(p *corev1.Pod) NodePod {
	return NodePod{Namespace: p.Namespace, Name: p.Name, UID: NodeUID(p), NetNS: p.Annotations[AnnotationNetNS]}
}

// MTLS reads the mTLS mode that a Namespace or Pod has by its own label, if it has one. A value that is not understood is
// taken as strict. The mesh's own namespace has none: who signs certificates cannot wait for one.
func MTLS(o metav1.Object) (mode model.MTLSMode, ok bool) {
	value, ok := o.GetLabels()[labelMTLS]
	if !ok || o.GetNamespace() == Namespace || o.GetNamespace() == "" && o.GetName() == Namespace {
		return model.MTLSDisabled, false
	}
	mode, known := model.ParseMTLSMode(value)
	if !known {
		mode = model.MTLSStrict
	}
	return mode, true
}
