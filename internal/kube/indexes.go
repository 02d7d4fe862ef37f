package kube

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// Annotations of pods.
const (
	// AnnotationNetNS names the pod's network namespace, /run/netns/NAME.
	AnnotationNetNS = "weft.io/netns"
	// AnnotationCgroup is the path of the pod's cgroup below the cgroup2 mount.
	AnnotationCgroup = "weft.io/cgroup"
	// AnnotationIP lists the pod's addresses, separated by commas, where status.podIPs does not.
	AnnotationIP = "weft.io/ip"
)

// LabelKey is the value of ByLabel for one label.
func LabelKey(namespace, label, value string) string { return namespace + "/" + label + "=" + value }

// ParentKey is the value of ByParent: kind is Service, Gateway or ListenerSet, of the groups that the Gateway API gives them.
func ParentKey(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

// PodAddresses returns the pod's addresses, sorted, without duplicates: of the annotation weft.io/ip, else of its status.
// What is not an address is left out and reported in bad.
func PodAddresses(p *corev1.Pod) (addrs []netip.Addr, bad []string) {
	texts := strings.FieldsFunc(p.Annotations[AnnotationIP], func(r rune) bool { return r == ',' || r == ' ' })
	if len(texts) == 0 {
		texts = append(texts, p.Status.PodIP)
		for _, ip := range p.Status.PodIPs {
			texts = append(texts, ip.IP)
		}
	}
	for _, t := range texts {
		if t == "" {
			continue
		}
		a, err := netip.ParseAddr(t)
		if err != nil || !model.IsRoutable(a) {
			bad = append(bad, t)
			continue
		}
		addrs = append(addrs, a.Unmap())
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), bad
}

func podAddressTexts(p *corev1.Pod) []string {
	addrs, _ := PodAddresses(p)
	return texts(addrs)
}

// MaxServiceAddresses bounds what one Service takes of every node's memory: an object can hold tens of thousands, and each
// costs an entry in the kernel for each port.
const MaxServiceAddresses = 64

// ServiceAddresses returns the addresses that clients reach a Service by, without duplicates: cluster, external and load
// balancer addresses, in this order. What is not an address is left out and reported in bad. The load balancer addresses
// of a Service that stands for a Gateway are the Gateway's, and those with ipMode Proxy are the load balancer's own: it
// wants to see the traffic. What is past MaxServiceAddresses is left out.
func ServiceAddresses(s *corev1.Service) (addrs []netip.Addr, bad []string) {
	in := append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...)
	in = append(in, s.Spec.ExternalIPs...)
	if _, gateway := GatewayOfService(s); !gateway {
		for _, i := range s.Status.LoadBalancer.Ingress {
			if i.IPMode == nil || *i.IPMode == corev1.LoadBalancerIPModeVIP {
				in = append(in, i.IP)
			}
		}
	}
	for _, t := range in[:min(len(in), MaxServiceAddresses)] {
		if t == "" || t == corev1.ClusterIPNone {
			continue
		}
		a, err := netip.ParseAddr(t)
		if err != nil || !model.IsRoutable(a) {
			bad = append(bad, t)
			continue
		}
		if a = a.Unmap(); !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs, bad
}

// NodeAddresses returns the addresses in a Node's status, without duplicates. Names are left out.
func NodeAddresses(n *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, na := range n.Status.Addresses {
		if a, err := netip.ParseAddr(na.Address); err == nil && !slices.Contains(out, a.Unmap()) {
			out = append(out, a.Unmap())
		}
	}
	return out
}

func texts(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}

// GatewaySecrets returns the keys of the Secrets that a Gateway refers to, for its listeners and for its backends, sorted,
// without duplicates.
func GatewaySecrets(g *gwv1.Gateway) []string {
	var out []string
	for i := range g.Spec.Listeners {
		out = appendSecrets(out, g.Namespace, g.Spec.Listeners[i].TLS)
	}
	if r := BackendCertificateRef(g); r != nil {
		out = appendSecret(out, g.Namespace, r)
	}
	return unique(out)
}

// BackendCertificateRef returns the reference to the certificate that a Gateway shows to backends; nil for none.
func BackendCertificateRef(g *gwv1.Gateway) *gwv1.SecretObjectReference {
	if g.Spec.TLS == nil || g.Spec.TLS.Backend == nil {
		return nil
	}
	return g.Spec.TLS.Backend.ClientCertificateRef
}

// ListenerSetSecrets is GatewaySecrets for a ListenerSet.
func ListenerSetSecrets(s *gwv1.ListenerSet) []string {
	var out []string
	for i := range s.Spec.Listeners {
		out = appendSecrets(out, s.Namespace, s.Spec.Listeners[i].TLS)
	}
	return unique(out)
}

func appendSecrets(to []string, namespace string, tls *gwv1.ListenerTLSConfig) []string {
	if tls == nil {
		return to
	}
	for i := range tls.CertificateRefs {
		to = appendSecret(to, namespace, &tls.CertificateRefs[i])
	}
	return to
}

func appendSecret(to []string, namespace string, r *gwv1.SecretObjectReference) []string {
	if r.Namespace != nil {
		namespace = string(*r.Namespace)
	}
	return append(to, model.Key(namespace, string(r.Name)))
}

// GatewayOfListenerSet returns the key of the Gateway that a ListenerSet names; ok is false for a parent of another kind.
func GatewayOfListenerSet(s *gwv1.ListenerSet) (key string, ok bool) {
	p := s.Spec.ParentRef
	if p.Kind != nil && *p.Kind != "Gateway" || p.Group != nil && *p.Group != gwv1.GroupName {
		return "", false
	}
	ns := s.Namespace
	if p.Namespace != nil {
		ns = string(*p.Namespace)
	}
	return model.Key(ns, string(p.Name)), true
}

func listenerSetParents(s *gwv1.ListenerSet) []string {
	key, ok := GatewayOfListenerSet(s)
	if !ok {
		return nil
	}
	ns, name := model.SplitKey(key)
	return []string{ParentKey("Gateway", ns, name)}
}

func policyServices(p *weftv1.AuthorizationPolicy) []string {
	var out []string
	for _, t := range p.Spec.TargetRefs {
		if t.Kind == "Service" && t.Group == "" {
			out = append(out, model.Key(p.Namespace, t.Name))
		}
	}
	return unique(out)
}

func tlsPolicyServices(p *gwv1.BackendTLSPolicy) []string {
	var out []string
	for _, t := range p.Spec.TargetRefs {
		if t.Kind == "Service" && t.Group == "" {
			out = append(out, model.Key(p.Namespace, string(t.Name)))
		}
	}
	return unique(out)
}

// MaxPolicyTargets bounds the targetRefs of a policy of the Gateway API, as the schema does.
const MaxPolicyTargets = 16

// TelemetryGateways returns the names of the Gateways that an XTelemetryPolicy targets, which are in its namespace, sorted, without
// duplicates. Targets of other kinds, and those past MaxPolicyTargets, are left out.
func TelemetryGateways(p *gwxv1.XTelemetryPolicy) []string {
	var out []string
	for _, t := range p.Spec.TargetRefs[:min(len(p.Spec.TargetRefs), MaxPolicyTargets)] {
		if t.Kind == "Gateway" && t.Group == gwv1.GroupName {
			out = append(out, string(t.Name))
		}
	}
	return unique(out)
}

func telemetryParents(p *gwxv1.XTelemetryPolicy) []string {
	names := TelemetryGateways(p)
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = ParentKey("Gateway", p.Namespace, name)
	}
	return out
}

// CACertificateKey is the key of the certificates in a ConfigMap that the Gateway API's references to CA certificates mean.
const CACertificateKey = "ca.crt"

// GatewayConfigMaps returns the keys of the ConfigMaps by which a Gateway checks its clients' certificates, sorted, without
// duplicates.
func GatewayConfigMaps(g *gwv1.Gateway) []string {
	if g.Spec.TLS == nil || g.Spec.TLS.Frontend == nil {
		return nil
	}
	var out []string
	add := func(v *gwv1.FrontendTLSValidation) {
		if v == nil {
			return
		}
		for _, r := range v.CACertificateRefs {
			ns := g.Namespace
			if r.Namespace != nil {
				ns = string(*r.Namespace)
			}
			if r.Kind == "ConfigMap" && r.Group == "" {
				out = append(out, model.Key(ns, string(r.Name)))
			}
		}
	}
	add(g.Spec.TLS.Frontend.Default.Validation)
	for _, p := range g.Spec.TLS.Frontend.PerPort {
		add(p.TLS.Validation)
	}
	return unique(out)
}

// PolicyConfigMaps returns the keys of the ConfigMaps that a BackendTLSPolicy refers to, sorted, without duplicates.
func PolicyConfigMaps(p *gwv1.BackendTLSPolicy) []string {
	var out []string
	for _, r := range p.Spec.Validation.CACertificateRefs {
		if r.Kind == "ConfigMap" && r.Group == "" {
			out = append(out, model.Key(p.Namespace, string(r.Name)))
		}
	}
	return unique(out)
}

func labelKeys(namespace string, labels map[string]string) []string {
	out := make([]string, 0, len(labels))
	for k, v := range labels {
		out = append(out, LabelKey(namespace, k, v))
	}
	return out
}

func sliceService(s *discoveryv1.EndpointSlice) []string {
	name := s.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		return nil
	}
	return []string{model.Key(s.Namespace, name)}
}

func parentKeys(namespace string, refs []gwv1.ParentReference) []string {
	var out []string
	for _, r := range refs {
		kind := "Gateway"
		if r.Kind != nil {
			kind = string(*r.Kind)
		}
		group := gwv1.GroupName
		if r.Group != nil {
			group = string(*r.Group)
		}
		listeners := group == gwv1.GroupName && (kind == "Gateway" || kind == "ListenerSet")
		if !listeners && (kind != "Service" || group != "") {
			continue
		}
		ns := namespace
		if r.Namespace != nil {
			ns = string(*r.Namespace)
		}
		out = append(out, ParentKey(kind, ns, string(r.Name)))
	}
	return unique(out)
}

func unique(in []string) []string {
	slices.Sort(in)
	return slices.Compact(in)
}
