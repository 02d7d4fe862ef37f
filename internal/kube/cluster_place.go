package kube

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Place is where a pod of this node runs. Only the node knows it, from its CNI.
type Place struct {
	NetNS  string // name of the network namespace, a file in /run/netns
	Cgroup string // path of the pod's cgroup below the cgroup2 mount; "" if not known
}

// Place tells where the pod with a UID runs; the zero Place forgets it. The pod itself may come before or after. The
// UID ties the place to this pod, and not to a later one of its name.
func (c *Cluster) Place(namespace, name, uid string, p Place) {
	c.mu.Lock()
	if p == (Place{}) {
		delete(c.places, uid)
	} else {
		c.places[uid] = p
	}
	c.mu.Unlock()
	w := c.objs.DB.Write(c.objs.Pods)
	defer w.Abort()
	old, ok := c.objs.Pods.Get(w.Snapshot(), namespace+"/"+name)
	if !ok || string(old.UID) != uid {
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
	p := c.places[string(pod.UID)]
	c.mu.Unlock()
	for key, value := range map[string]string{AnnotationNetNS: p.NetNS, AnnotationCgroup: p.Cgroup} {
		if value == "" || pod.Spec.HostNetwork {
			delete(pod.Annotations, key)
			continue
		}
		annotate(pod, key, value)
	}
	if len(pod.Annotations) == 0 {
		pod.Annotations = nil
	}
}
