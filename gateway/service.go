package gateway

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// labelL7 is the label, on Services and namespaces, that hands traffic to Envoy ("enabled") where nothing else asks for
// it, except that of ports that say that they do not speak HTTP. "disabled" on a Service overrides its namespace's label; routes and policies count all the same.
const labelL7 = "weft.io/l7"

var serviceUnits = unitKind{
	name: "service", stage: stageModel, compute: service,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*corev1.Service] { return o.Services }),
}

// service translates a Service: its addresses, which of its ports are L7, and the route tables of these.
func service(v *view, key string) ([]output, bool) {
	svc, ok := v.objs.Services.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	ref := model.ObjectRef{Kind: "Service", Namespace: svc.Namespace, Name: svc.Name}
	var t problems
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return v.objectStatus(ref, svc.Generation, &t), true
	}
	s := &model.Service{Namespace: svc.Namespace, Name: svc.Name, Affinity: affinity(svc)}
	s.Ports = servicePorts(svc, &t)
	s.Addresses = v.serviceAddresses(svc, &t)
	v.allotted(s, &t)
	v.checkForeign(svc, &t)
	var outs []output
	labelled, policed := v.l7ByLabel(svc, &t), v.l7ByPolicy(svc)
	streams, _ := v.streamPorts.Get(v.Snapshot, key)
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Protocol != model.TCP {
			continue
		}
		table := v.serviceTable(s, p.Port)
		other, _ := otherProtocol(*p)
		if p.L7 = table.routed || (policed || labelled) && other == "" && !v.divides(svc, p.Port); p.L7 {
			p.Detect = !table.declared && !declaresHTTP(*p)
			outs = append(outs, out(v.st.RouteTables, table.Name, table.RouteTable))
		}
		p.SNI = streams.names(p.Port)
	}
	outs = append(outs, out(v.st.Services, s.Key(), s))
	return append(outs, v.objectStatus(ref, svc.Generation, &t)...), true
}

// l7ByLabel reports whether a label says that the TCP ports that speak HTTP are L7.
func (v *view) l7ByLabel(svc *corev1.Service, t *problems) bool {
	switch value, ok := svc.Labels[labelL7]; {
	case value == "enabled":
		return true
	case ok && value != "disabled":
		t.add("Invalid", fmt.Sprintf("label %s: %q is neither enabled nor disabled", labelL7, short(value)))
	case !ok:
		ns, found := v.objs.Namespaces.Get(v.Snapshot, model.Key("", svc.Namespace))
		return found && ns.Labels[labelL7] == "enabled"
	}
	return false
}

// l7ByPolicy reports whether the TCP ports that speak HTTP are L7 because a policy has HTTP rules. The destination decides by the
// policy, whatever comes.
func (v *view) l7ByPolicy(svc *corev1.Service) bool {
	for ap := range v.objs.AuthorizationPolicies.By(v.Snapshot, kube.ByService, kube.Key(svc)) {
		for _, r := range ap.Spec.Rules {
			if len(r.HTTP) > 0 {
				return true
			}
		}
	}
	return false
}

// maxServicePorts and maxFrontends, which are ports of addresses, bound what one Service takes of the kernel's tables, which
// are all Services': without them one of a thousand ports and addresses would leave nothing to the others.
const maxServicePorts, maxFrontends = 2048, 4096

// servicePorts leaves out what cannot be served: numbers out of range, SCTP, and the second of two ports that are alike.
func servicePorts(svc *corev1.Service, t *problems) []model.ServicePort {
	var ports []model.ServicePort
	type number struct {
		port  uint16
		proto model.Protocol
	}
	seen := map[number]bool{}
	for _, p := range svc.Spec.Ports {
		port := model.ServicePort{Name: p.Name, Port: uint16(p.Port)}
		if p.AppProtocol != nil {
			port.AppProtocol = *p.AppProtocol
		}
		proto, ok := protocol(p.Protocol)
		port.Protocol = proto
		switch {
		case !ok:
			t.add("Invalid", fmt.Sprintf("port %d: protocol %q is neither TCP nor UDP", p.Port, short(string(p.Protocol))))
			continue
		case !validPort(p.Port):
			t.add("Invalid", fmt.Sprintf("port %d is not between 1 and 65535", p.Port))
			continue
		case seen[number{port.Port, proto}]:
			t.add("Invalid", fmt.Sprintf("port %d/%s is there twice; the first counts", p.Port, port.Protocol))
			continue
		}
		if len(ports) == maxServicePorts {
			t.add("TooMany", fmt.Sprintf("of %d ports the first %d are served", len(svc.Spec.Ports), maxServicePorts))
			break
		}
		seen[number{port.Port, proto}] = true
		ports = append(ports, port)
	}
	return ports
}

func protocol(p corev1.Protocol) (model.Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return model.TCP, true
	case corev1.ProtocolUDP:
		return model.UDP, true
	}
	return model.TCP, false
}

// affinity is the ClientIP session affinity's timeout, three hours if none is given, as in Kubernetes.
func affinity(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil && *c.ClientIP.TimeoutSeconds > 0 {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

// headless Services have no address of their own, so traffic to them cannot be distinguished from traffic to their pods.
func headless(svc *corev1.Service) bool {
	return svc.Spec.ClusterIP == corev1.ClusterIPNone || slices.Contains(svc.Spec.ClusterIPs, corev1.ClusterIPNone)
}

// appProtocolServed reports whether Envoy can speak to a port of this application protocol without TLS.
func appProtocolServed(p *string) bool {
	if p == nil {
		return true
	}
	switch strings.ToLower(*p) {
	case "https", "tls", "kubernetes.io/wss":
		return false
	}
	return true
}
