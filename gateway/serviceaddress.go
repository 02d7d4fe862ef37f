package gateway

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weft-mesh/weft/internal/kube"
)

// addressOrigin is the field that gives a Service an address, in the order of how far its writers are trusted.
type addressOrigin int

const (
	// originExternalIPs is spec.externalIPs, which everybody with write access to the Service can set.
	originExternalIPs addressOrigin = iota
	// originLoadBalancer is status.loadBalancer, which only a cloud's controller and its like may write.
	originLoadBalancer
	// originCluster is spec.clusterIPs, which the API server checks.
	originCluster
)

func originOf(svc *corev1.Service, a netip.Addr) addressOrigin {
	is := func(text string) bool {
		b, err := netip.ParseAddr(text)
		return err == nil && b.Unmap() == a
	}
	switch {
	case is(svc.Spec.ClusterIP) || slices.ContainsFunc(svc.Spec.ClusterIPs, is):
		return originCluster
	case slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool { return is(i.IP) }):
		return originLoadBalancer
	}
	return originExternalIPs
}

func clusterAddress(svc *corev1.Service, a netip.Addr) bool { return originOf(svc, a) == originCluster }

// serviceAddresses returns the addresses that connections to the Service are taken from. An address that is refused is
// reported: traffic to it goes where it would go without the mesh.
func (v *view) serviceAddresses(svc *corev1.Service, t *problems) []netip.Addr {
	addrs, bad := kube.ServiceAddresses(svc)
	for _, b := range bad {
		t.add("Invalid", fmt.Sprintf("%q is not an address that a Service can have", short(b)))
	}
	var own []netip.Addr
	for _, a := range addrs {
		reason, message := v.refusedAddress(svc, a)
		if reason == "" {
			reason, message = v.addressHolder(svc, a)
		}
		if reason != "" {
			t.add(reason, message)
			continue
		}
		own = append(own, a)
	}
	if n := len(svc.Spec.ExternalIPs) + len(svc.Status.LoadBalancer.Ingress); n > kube.MaxServiceAddresses-len(svc.Spec.ClusterIPs)-1 {
		t.add("TooMany", fmt.Sprintf("of %d addresses the first %d are served", n, kube.MaxServiceAddresses))
	}
	if most := maxAddresses(svc); len(own) > most {
		t.add("TooMany", fmt.Sprintf("with %d ports %d of %d addresses are served", len(svc.Spec.Ports), most, len(own)))
		own = own[:most]
	}
	return own
}

// maxAddresses is how many addresses a Service may have with the ports that it has.
func maxAddresses(svc *corev1.Service) int { return max(maxFrontends/max(len(svc.Spec.Ports), 1), 2) }

// refusedAddress says why a Service cannot have an address, whatever other Services name it; "" is good. Connections to
// a Service's address are taken from every process of every node, so an address that somebody may write into an object
// must not be that of anything else: with it, all that is sent there would be theirs.
func (v *view) refusedAddress(svc *corev1.Service, a netip.Addr) (reason, message string) {
	const conflict = "AddressConflict"
	if pod := v.podAt(a); pod != nil {
		return conflict, fmt.Sprintf("address %s belongs to pod %s", a, kube.Key(pod))
	}
	if originOf(svc, a) == originCluster {
		return "", ""
	}
	if !v.mayName(svc, a) {
		return "ExternalIPNotAllowed", fmt.Sprintf("external IP %s is ignored: no range of --external-ips (chart value externalIPs) holds it", a)
	}
	if originOf(svc, a) == originLoadBalancer && len(svc.Spec.LoadBalancerSourceRanges) > 0 {
		return "SourceRangesNotChecked", fmt.Sprintf("address %s is left to the load balancer and kube-proxy: spec.loadBalancerSourceRanges is not checked here", a)
	}
	if owner := v.nodeAt(a); owner != "" {
		return conflict, fmt.Sprintf("address %s belongs to %s", a, owner)
	}
	for other := range v.objs.Services.By(v.Snapshot, kube.ByAddress, a.String()) {
		if clusterAddress(other, a) {
			return conflict, fmt.Sprintf("address %s is the cluster address of Service %s", a, kube.Key(other))
		}
	}
	if port := v.apiServerPort(svc, a); port != 0 {
		return conflict, fmt.Sprintf("%s is the API server", netip.AddrPortFrom(a, port))
	}
	if gw := v.gatewayAt(a); gw != "" {
		return conflict, fmt.Sprintf("address %s belongs to Gateway %s", a, gw)
	}
	if pool := v.poolAt(a); pool != "" {
		return conflict, fmt.Sprintf("address %s belongs to AddressPool %s, whose addresses are for Gateways", a, pool)
	}
	return "", ""
}

// mayName reports whether the field of a Service that names an address is one that may.
func (v *view) mayName(svc *corev1.Service, a netip.Addr) bool {
	return originOf(svc, a) != originExternalIPs ||
		slices.ContainsFunc(v.cfg.ExternalIPs, func(p netip.Prefix) bool { return p.Contains(a) })
}

// addressHolder says which other Service has an address and a port of the same number; "" if none has.
func (v *view) addressHolder(svc *corev1.Service, a netip.Addr) (reason, message string) {
	for other := range v.objs.Services.By(v.Snapshot, kube.ByAddress, a.String()) {
		if !outranks(other, svc, a) || other.Spec.Type == corev1.ServiceTypeExternalName || !sharesPort(other, svc) {
			continue
		}
		if refused, _ := v.refusedAddress(other, a); refused == "" {
			return "AddressConflict", fmt.Sprintf("address %s belongs to Service %s, which has a port of the same number", a, kube.Key(other))
		}
	}
	return "", ""
}

// outranks reports whether Service a has an address rather than Service b, if both name it: the one whose origin is
// trusted more, else the older.
func outranks(a, b *corev1.Service, addr netip.Addr) bool {
	if x, y := originOf(a, addr), originOf(b, addr); x != y {
		return x > y
	}
	return older(a, b)
}

// nodeAt names the node that an address belongs to: the node's own, or one of the range that its pods' addresses are
// from, in which its bridge has one too. It is "" if there is none.
func (v *view) nodeAt(a netip.Addr) string {
	if slices.Contains(v.cfg.NodeAddresses, a) {
		return "this node"
	}
	for n := range v.objs.Nodes.By(v.Snapshot, kube.ByAddress, a.String()) {
		return "node " + n.Name
	}
	for n := range v.objs.Nodes.All(v.Snapshot) {
		for _, p := range podCIDRs(n) {
			if p.Contains(a) {
				return fmt.Sprintf("the pods of node %s (%s)", n.Name, p)
			}
		}
	}
	return ""
}

// poolAt returns the name of the AddressPool that holds an address; "" if none does.
func (v *view) poolAt(a netip.Addr) string {
	for p := range v.objs.AddressPools.All(v.Snapshot) {
		ranges, _ := poolRanges(p)
		if slices.ContainsFunc(ranges, func(r addressRange) bool { return r.contains(a) }) {
			return p.Name
		}
	}
	return ""
}

// apiServerService is the Service whose endpoints the API servers write themselves.
const apiServerService = "default/kubernetes"

// apiServerPort returns a port of a Service at which an API server listens on an address; 0 for none. To balance connections
// to it would cut off the whole node, which could not even learn that the Service is gone.
func (v *view) apiServerPort(svc *corev1.Service, a netip.Addr) uint16 {
	has := func(port int32) bool {
		return slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port })
	}
	if at := v.cfg.APIServer; at.Addr() == a && has(int32(at.Port())) {
		return at.Port()
	}
	for s := range v.objs.EndpointSlices.By(v.Snapshot, kube.ByService, apiServerService) {
		if !slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return slices.Contains(e.Addresses, a.String()) }) {
			continue
		}
		for _, p := range s.Ports {
			if p.Port != nil && validPort(*p.Port) && has(*p.Port) {
				return uint16(*p.Port)
			}
		}
	}
	return 0
}

// gatewayAt returns the key of a Gateway that was given an address; "" for none.
func (v *view) gatewayAt(a netip.Addr) string {
	for as := range v.assignments.By(v.Snapshot, assignedAddress, a.String()) {
		return as.gateway
	}
	return ""
}

func sharesPort(a, b *corev1.Service) bool {
	for _, p := range a.Spec.Ports {
		for _, q := range b.Spec.Ports {
			pp, _ := protocol(p.Protocol)
			qp, _ := protocol(q.Protocol)
			if p.Port == q.Port && pp == qp {
				return true
			}
		}
	}
	return false
}
