package survey

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weft-mesh/weft/internal/model"
)

// NetworkPolicy is one that lets TCP through on some ports alone, in one direction or in both.
type NetworkPolicy struct {
	Namespace, Name string
	// HBONE and Tunnel report whether a rule names a port of that way between pods.
	HBONE, Tunnel bool
}

// networkPolicies returns those of all namespaces that name a port of HBONE or of weft tunnel.
func (c *Cluster) networkPolicies(ctx context.Context) ([]NetworkPolicy, error) {
	all, err := list[networkingv1.NetworkPolicy](ctx, c, "/apis/networking.k8s.io/v1/networkpolicies", "", "")
	var out []NetworkPolicy
	for i := range all {
		var ports []networkingv1.NetworkPolicyPort
		for _, r := range all[i].Spec.Ingress {
			ports = append(ports, r.Ports...)
		}
		for _, r := range all[i].Spec.Egress {
			ports = append(ports, r.Ports...)
		}
		n := NetworkPolicy{
			Namespace: all[i].Namespace, Name: all[i].Name,
			HBONE: names(ports, model.PortHBONE), Tunnel: names(ports, model.PortTunnel),
		}
		if n.HBONE || n.Tunnel {
			out = append(out, n)
		}
	}
	return out, unlessAbsent(err)
}

// names reports whether one of the ports is a TCP port by number, or has it in its range.
func names(ports []networkingv1.NetworkPolicyPort, port int32) bool {
	return slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP || p.Port == nil || p.Port.Type != intstr.Int {
			return false
		}
		last := p.Port.IntVal
		if p.EndPort != nil {
			last = *p.EndPort
		}
		return p.Port.IntVal <= port && port <= last
	})
}
