package controller

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

const (
	// annotationApplied is on what was applied and holds the hash of the manifest.
	annotationApplied = "weft.io/applied"
	labelManagedBy    = "app.kubernetes.io/managed-by"
	managedBy         = "weft"
	maxLabel          = 63 // characters of a label's value and of a Service's name
)

// gatewayService is the Service that stands for a Gateway (GEP-1762): others find the Gateway's addresses by it, and its
// cluster address leads to the Gateway. It is nil for a Gateway without a port that a Service can have. served are the ports
// that the Gateway has, also by its ListenerSets.
func gatewayService(gw *gwv1.Gateway, served []model.GatewayPort) *corev1.Service {
	class := string(gw.Spec.GatewayClassName)
	s := &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: gw.Namespace, Name: serviceName(gw.Name, class), Labels: map[string]string{}, Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: gwv1.GroupVersion.String(), Kind: "Gateway", Name: gw.Name, UID: gw.UID, Controller: new(true),
			}},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: new(kube.GatewayServiceClass),
			AllocateLoadBalancerNodePorts: new(false), // nothing would listen on them
			IPFamilyPolicy:                new(corev1.IPFamilyPolicyPreferDualStack),
			Ports:                         gatewayPorts(gw, served),
		},
	}
	if len(s.Spec.Ports) == 0 {
		return nil
	}
	if in := gw.Spec.Infrastructure; in != nil {
		for k, v := range in.Labels {
			s.Labels[string(k)] = string(v)
		}
		for k, v := range in.Annotations {
			s.Annotations[string(k)] = string(v)
		}
	}
	s.Labels[gwv1.GatewayNameLabelKey] = shortened(gw.Name, maxLabel)
	s.Labels[gwv1.GatewayClassNameLabelKey] = shortened(class, maxLabel)
	s.Labels[labelManagedBy] = managedBy
	s.Annotations[kube.AnnotationGateway] = gw.Name
	return s
}

// gatewayPorts returns a port for each that listeners have, sorted. Those of ListenerSets alone count while they are served.
func gatewayPorts(gw *gwv1.Gateway, served []model.GatewayPort) []corev1.ServicePort {
	var ports []corev1.ServicePort
	for _, l := range gw.Spec.Listeners {
		proto, ok := transport(l.Protocol)
		if !ok || l.Port < 1 || l.Port > 65535 {
			continue
		}
		p := corev1.ServicePort{
			Name: fmt.Sprintf("%s-%d", strings.ToLower(string(l.Protocol)), l.Port), Protocol: proto,
			Port: l.Port, TargetPort: intstr.FromInt32(l.Port),
		}
		if !slices.ContainsFunc(ports, func(o corev1.ServicePort) bool { return o.Port == p.Port && o.Protocol == p.Protocol }) {
			ports = append(ports, p)
		}
	}
	for _, p := range served {
		if p.Only {
			sp := corev1.ServicePort{
				Name: fmt.Sprintf("listener-set-%d", p.Port), Protocol: corev1.ProtocolTCP, Port: int32(p.Port), TargetPort: intstr.FromInt32(int32(p.Port)),
			}
			if p.UDP {
				sp.Name, sp.Protocol = fmt.Sprintf("listener-set-udp-%d", p.Port), corev1.ProtocolUDP
			}
			ports = append(ports, sp)
		}
	}
	slices.SortFunc(ports, comparePorts)
	return ports
}

func comparePorts(a, b corev1.ServicePort) int {
	return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

// transport returns what carries a listener's protocol; false for protocols that are not the Gateway API's own.
func transport(p gwv1.ProtocolType) (corev1.Protocol, bool) {
	switch p {
	case gwv1.HTTPProtocolType, gwv1.HTTPSProtocolType, gwv1.TLSProtocolType, gwv1.TCPProtocolType:
		return corev1.ProtocolTCP, true
	case gwv1.UDPProtocolType:
		return corev1.ProtocolUDP, true
	}
	return "", false
}

// serviceName is <gateway>-<class>, or where a Service cannot have that name, one that begins like it and has a hash.
func serviceName(gateway, class string) string {
	name := gateway + "-" + class
	if len(validation.IsDNS1035Label(name)) == 0 {
		return name
	}
	name = strings.ReplaceAll(name, ".", "-")
	if name[0] < 'a' || name[0] > 'z' {
		name = "gateway-" + name
	}
	// A dot that became a dash could make two names one, so there is a hash in any case.
	return withHash(name, gateway+"/"+class, maxLabel)
}

// shortened returns a name as a label's value.
func shortened(name string, limit int) string {
	if len(name) <= limit {
		return name
	}
	return withHash(name, name, limit)
}

// withHash returns a text of at most limit characters that begins like name and differs with of.
func withHash(name, of string, limit int) string {
	sum := sha256.Sum256([]byte(of))
	suffix := "-" + hex.EncodeToString(sum[:4])
	return strings.TrimRight(name[:min(len(name), limit-len(suffix))], "-.") + suffix
}

// manifest returns what is applied. It writes its hash into the Service's annotations, so that who reads the Service later
// can tell whether it was made from this manifest.
func manifest(s *corev1.Service) ([]byte, error) {
	delete(s.Annotations, annotationApplied)
	text, err := encode(s)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	s.Annotations[annotationApplied] = hex.EncodeToString(sum[:8])
	return encode(s)
}

// encode leaves out the status, which is not part of a manifest.
func encode(s *corev1.Service) ([]byte, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(s)
	if err != nil {
		return nil, fmt.Errorf("manifest of Service %s: %w", kube.Key(s), err)
	}
	delete(m, "status")
	return json.Marshal(m)
}

// applied reports whether a Service is what is wanted: made from this manifest, and nothing of it was changed since. What
// others added does not count.
func applied(have, want *corev1.Service) bool {
	contains := func(have, want map[string]string) bool {
		for k, v := range want {
			if h, ok := have[k]; !ok || h != v {
				return false
			}
		}
		return true
	}
	ports := func(in []corev1.ServicePort) []corev1.ServicePort {
		out := make([]corev1.ServicePort, len(in))
		for i, p := range in {
			out[i] = corev1.ServicePort{Name: p.Name, Port: p.Port, Protocol: p.Protocol}
		}
		slices.SortFunc(out, comparePorts)
		return out
	}
	return contains(have.Labels, want.Labels) && contains(have.Annotations, want.Annotations) &&
		slices.Equal(ports(have.Spec.Ports), ports(want.Spec.Ports)) && have.Spec.Type == want.Spec.Type
}

// ownerOf returns the Gateway that a Service was made for; false for a Service that somebody else made.
func ownerOf(s *corev1.Service) (metav1.OwnerReference, bool) {
	if _, ok := kube.GatewayOfService(s); !ok {
		return metav1.OwnerReference{}, false
	}
	o := metav1.GetControllerOf(s)
	if o == nil || o.Kind != "Gateway" || !strings.HasPrefix(o.APIVersion, gwv1.GroupName+"/") {
		return metav1.OwnerReference{}, false
	}
	return *o, true
}

// ingress returns the load balancer addresses of a Gateway's Service. Mode Proxy keeps kube-proxy from taking the
// addresses for its own.
func ingress(addrs []string) []corev1.LoadBalancerIngress {
	out := make([]corev1.LoadBalancerIngress, 0, len(addrs))
	for _, a := range slices.Sorted(slices.Values(addrs)) {
		out = append(out, corev1.LoadBalancerIngress{IP: a, IPMode: new(corev1.LoadBalancerIPModeProxy)})
	}
	return out
}
