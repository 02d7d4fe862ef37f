package cluster

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
)

// reserved are the annotations of ours that no user may set in a cluster.
var reserved = []string{kube.AnnotationNetNS, kube.AnnotationCgroup, kube.AnnotationIP, kube.AnnotationStandIn}

// WritesStatus names the kinds whose status the mesh writes.
func WritesStatus() []schema.GroupKind {
	gw := func(kind string) schema.GroupKind { return schema.GroupKind{Group: gwv1.GroupName, Kind: kind} }
	weft := func(kind string) schema.GroupKind { return schema.GroupKind{Group: weftv1.Group, Kind: kind} }
	return []schema.GroupKind{
		gw("GatewayClass"), xmesh, gw("Gateway"), gw("ListenerSet"), gw("HTTPRoute"), gw("GRPCRoute"), gw("TLSRoute"), gw("TCPRoute"), gw("UDPRoute"), gw("BackendTLSPolicy"),
		{Group: gwxv1.GroupName, Kind: "XTelemetryPolicy"},
		weft("AuthorizationPolicy"), weft("AddressPool"),
	}
}

// trim drops what nobody reads: in a cluster most of an object is of that kind, and it changes the most.
func (c *Cluster) trim(obj runtime.Object) runtime.Object {
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	keep := c.opts.Statuses
	switch o := obj.(type) {
	case *corev1.Namespace:
		o.Spec, o.Status, keep = corev1.NamespaceSpec{}, corev1.NamespaceStatus{}, false
	case *corev1.Node:
		trimNode(o, keep, c.opts.NodeLabels)
		keep = false
	case *corev1.Pod:
		trimPod(o)
		owner := controllerOf(o)
		trimMeta(o, false)
		o.OwnerReferences = owner
		return o
	case *corev1.Service:
		o.Status.Conditions = nil
		if _, gateway := kube.GatewayOfService(o); keep && gateway {
			o.ManagedFields = nil
			return o // it is written, so all of its metadata is compared
		}
		keep = false
	case *corev1.Secret:
		trimSecret(o)
		keep = false
	default:
		keep = trimStatus(obj, keep) && keep
	}
	if o, ok := obj.(metav1.Object); ok {
		trimMeta(o, keep)
	}
	return obj
}

// trimStatus drops what a node does not read of the statuses that the mesh writes, unless all of it is kept. It reports whether obj
// is of a kind that has one.
func trimStatus(obj runtime.Object, keep bool) bool {
	switch o := obj.(type) {
	case *gwv1.Gateway:
		if !keep {
			// What the controller gave is what a node that starts must take; what it did not, it tells the reason of.
			o.Status = gwv1.GatewayStatus{Addresses: o.Status.Addresses, Conditions: notProgrammed(o.Status.Conditions)}
		}
	case *gwv1.ListenerSet:
		if !keep {
			o.Status = gwv1.ListenerSetStatus{}
		}
	case *gwv1.GatewayClass:
		if !keep {
			o.Status = gwv1.GatewayClassStatus{}
		}
	case *gwxv1.XMesh: // read only by who keeps statuses
	case *gwv1.BackendTLSPolicy:
		if !keep {
			o.Status = gwv1.PolicyStatus{}
		}
	case *gwxv1.XTelemetryPolicy:
		if !keep {
			o.Status = gwxv1.TelemetryPolicyStatus{}
		}
	case *weftv1.AuthorizationPolicy:
		if !keep {
			o.Status = weftv1.AuthorizationPolicyStatus{}
		}
	case *weftv1.AddressPool:
		if !keep {
			o.Status = weftv1.AddressPoolStatus{}
		}
	default:
		_, status, route := kube.Route(obj)
		if route && !keep {
			*status = gwv1.RouteStatus{}
		}
		return route
	}
	return true
}

func trimMeta(o metav1.Object, resourceVersion bool) {
	o.SetManagedFields(nil)
	o.SetOwnerReferences(nil)
	o.SetFinalizers(nil)
	o.SetGenerateName("")
	o.SetSelfLink("")
	if !resourceVersion {
		o.SetResourceVersion("")
	}
	var ours map[string]string
	for k, v := range o.GetAnnotations() {
		if strings.HasPrefix(k, "weft.io/") || k == corev1.MirrorPodAnnotationKey {
			if ours == nil {
				ours = map[string]string{}
			}
			ours[k] = v
		}
	}
	for _, k := range reserved {
		delete(ours, k)
	}
	if len(ours) == 0 {
		ours = nil
	}
	o.SetAnnotations(ours)
}

// trimNode keeps the addresses of the node and of its pods, and of the labels those that say what the node may serve: all of
// them, or some keys. A kubelet writes the rest every few minutes.
func trimNode(n *corev1.Node, all bool, keys []string) {
	if !all {
		maps.DeleteFunc(n.Labels, func(key, _ string) bool { return !slices.Contains(keys, key) })
	}
	n.Spec = corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs}
	n.Status = corev1.NodeStatus{Addresses: n.Status.Addresses}
}

// trimPod keeps identity, node, addresses, readiness, ports, probes and hooks.
func trimPod(p *corev1.Pod) {
	p.Spec = corev1.PodSpec{
		NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork, ServiceAccountName: p.Spec.ServiceAccountName,
		InitContainers: trimContainers(p.Spec.InitContainers), Containers: trimContainers(p.Spec.Containers),
	}
	status := corev1.PodStatus{Phase: p.Status.Phase, PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	p.Status = status
}

// controllerOf keeps of a pod's owners the one that made it, by kind and name.
func controllerOf(p *corev1.Pod) []metav1.OwnerReference {
	c := metav1.GetControllerOfNoCopy(p)
	if c == nil {
		return nil
	}
	return []metav1.OwnerReference{{Kind: c.Kind, Name: c.Name, Controller: c.Controller}}
}

func trimContainers(in []corev1.Container) []corev1.Container {
	var out []corev1.Container
	for i := range in {
		c := &in[i]
		t := corev1.Container{
			Name: c.Name, Ports: c.Ports, LivenessProbe: trimProbe(c.LivenessProbe),
			ReadinessProbe: trimProbe(c.ReadinessProbe), StartupProbe: trimProbe(c.StartupProbe), Lifecycle: trimHooks(c.Lifecycle),
		}
		if len(t.Ports) > 0 || t.LivenessProbe != nil || t.ReadinessProbe != nil || t.StartupProbe != nil || t.Lifecycle != nil {
			out = append(out, t)
		}
	}
	return out
}

// trimProbe keeps what the kubelet calls: host, port, and of HTTP the scheme and the path.
func trimProbe(p *corev1.Probe) *corev1.Probe {
	switch {
	case p == nil:
	case p.HTTPGet != nil:
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: trimGet(p.HTTPGet)}}
	case p.TCPSocket != nil:
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Host: p.TCPSocket.Host, Port: p.TCPSocket.Port}}}
	case p.GRPC != nil:
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: p.GRPC.Port}}}
	}
	return nil
}

func trimGet(g *corev1.HTTPGetAction) *corev1.HTTPGetAction {
	return &corev1.HTTPGetAction{Host: g.Host, Port: g.Port, Scheme: g.Scheme, Path: g.Path}
}

// trimHooks keeps what the kubelet calls: hooks of other kinds call nothing.
func trimHooks(l *corev1.Lifecycle) *corev1.Lifecycle {
	trim := func(h *corev1.LifecycleHandler) *corev1.LifecycleHandler {
		if h == nil || h.HTTPGet == nil {
			return nil
		}
		return &corev1.LifecycleHandler{HTTPGet: trimGet(h.HTTPGet)}
	}
	if l == nil {
		return nil
	}
	t := corev1.Lifecycle{PostStart: trim(l.PostStart), PreStop: trim(l.PreStop)}
	if t.PostStart == nil && t.PreStop == nil {
		return nil
	}
	return &t
}

// trimSecret keeps a certificate and its key. A Secret of another type never comes, by the field selector; if one did,
// nothing of it would be kept.
func trimSecret(s *corev1.Secret) {
	data := map[string][]byte{}
	if s.Type == corev1.SecretTypeTLS {
		for _, k := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
			if v, ok := s.Data[k]; ok {
				data[k] = v
			}
		}
	}
	s.Data, s.StringData, s.Labels, s.Immutable = data, nil, nil, nil
}

// notProgrammed keeps why a Gateway has no address, without the times.
func notProgrammed(all []metav1.Condition) []metav1.Condition {
	for _, c := range all {
		if c.Type == string(gwv1.GatewayConditionProgrammed) && c.Status == metav1.ConditionFalse {
			c.LastTransitionTime = metav1.Time{}
			return []metav1.Condition{c}
		}
	}
	return nil
}
