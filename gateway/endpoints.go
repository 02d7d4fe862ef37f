package gateway

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var endpointsUnits = unitKind{
	name: "endpoints", stage: stageModel, compute: endpoints,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*corev1.Service] { return o.Services }),
}

// endpoints finds what is behind each port of a Service: its EndpointSlices, or where it has none, the pods that its
// selector selects.
func endpoints(v *view, key string) ([]output, bool) {
	svc, ok := v.objs.Services.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil, true
	}
	if gw, ok := kube.GatewayOfService(svc); ok {
		return v.toGateway(svc, gw), true
	}
	slicesOf := slices.Collect(v.objs.EndpointSlices.By(v.Snapshot, kube.ByService, key))
	var pods []*corev1.Pod
	if len(slicesOf) == 0 {
		pods = v.selected(svc)
	}
	families := addressFamilies(svc)
	var outs []output
	var ignored problems
	for _, port := range servicePorts(svc, &ignored) {
		e := &model.Endpoints{Service: key, Port: port.Port, Protocol: port.Protocol}
		if len(slicesOf) > 0 {
			e.Backends = v.fromSlices(svc, slicesOf, port)
		} else {
			e.Backends = v.fromPods(svc, pods, port)
		}
		e.Backends = slices.DeleteFunc(e.Backends, func(b model.Endpoint) bool {
			return !families(b.Address.Addr()) || v.contested(b.Address.Addr())
		})
		slices.SortFunc(e.Backends, func(a, b model.Endpoint) int { return a.Address.Compare(b.Address) })
		e.Backends = slices.CompactFunc(e.Backends, func(a, b model.Endpoint) bool { return a.Address == b.Address })
		if cut, ok := v.allotments.Get(v.Snapshot, key); ok && !cut.refused {
			e.Backends = e.Backends[:min(len(e.Backends), cut.backends)]
		}
		outs = append(outs, out(v.st.Endpoints, e.Key(), e))
	}
	return outs, true
}

// toGateway returns the endpoints of a Service that stands for a Gateway: each port leads to that of the Gateway's
// addresses.
func (v *view) toGateway(svc *corev1.Service, gateway string) []output {
	assigned, ok := v.assignments.Get(v.Snapshot, gateway)
	families := addressFamilies(svc)
	var outs []output
	var ignored problems
	for _, port := range servicePorts(svc, &ignored) {
		e := &model.Endpoints{Service: kube.Key(svc), Port: port.Port, Protocol: port.Protocol}
		if ok && assigned.accepted.ok() {
			for _, a := range assigned.addresses {
				if families(a) && v.podAt(a) == nil {
					e.Backends = append(e.Backends, model.Endpoint{Address: netip.AddrPortFrom(a, port.Port)})
				}
			}
		}
		slices.SortFunc(e.Backends, func(a, b model.Endpoint) int { return a.Address.Compare(b.Address) })
		outs = append(outs, out(v.st.Endpoints, e.Key(), e))
	}
	return outs
}

// addressFamilies tells which addresses a Service's backends may have: those of its families, else of its addresses,
// else all.
func addressFamilies(svc *corev1.Service) func(netip.Addr) bool {
	v4, v6 := slices.Contains(svc.Spec.IPFamilies, corev1.IPv4Protocol), slices.Contains(svc.Spec.IPFamilies, corev1.IPv6Protocol)
	if !v4 && !v6 {
		addrs, _ := kube.ServiceAddresses(svc)
		v4 = slices.ContainsFunc(addrs, netip.Addr.Is4)
		v6 = slices.ContainsFunc(addrs, netip.Addr.Is6)
	}
	return func(a netip.Addr) bool { return v4 == v6 || a.Is4() == v4 }
}

func (v *view) fromSlices(svc *corev1.Service, in []*discoveryv1.EndpointSlice, port model.ServicePort) []model.Endpoint {
	var out []model.Endpoint
	for _, s := range in {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue // what a name resolves to cannot be checked against pods
		}
		number, ok := slicePort(s, port)
		if !ok {
			continue
		}
		for _, ep := range s.Endpoints {
			ready, terminating := sliceConditions(ep.Conditions)
			if !ready {
				continue
			}
			for _, text := range ep.Addresses {
				a, err := netip.ParseAddr(text)
				if err != nil || !model.IsRoutable(a) {
					continue
				}
				node := ""
				if ep.NodeName != nil {
					node = *ep.NodeName
				}
				out = append(out, v.endpoint(svc, netip.AddrPortFrom(a.Unmap(), number), terminating, node))
			}
		}
	}
	return out
}

// checkForeign names an endpoint of a Service to which Envoy sends nothing, because it is a pod of another namespace. Only
// Services without a selector are looked at: the endpoints of others follow their own pods.
func (v *view) checkForeign(svc *corev1.Service, t *problems) {
	if len(svc.Spec.Selector) > 0 {
		return
	}
	n, first := 0, netip.Addr{}
	for s := range v.objs.EndpointSlices.By(v.Snapshot, kube.ByService, kube.Key(svc)) {
		for _, ep := range s.Endpoints {
			for _, text := range ep.Addresses {
				a, err := netip.ParseAddr(text)
				if err != nil || !v.endpoint(svc, netip.AddrPortFrom(a.Unmap(), 0), false, "").NotGranted {
					continue
				}
				if n++; n == 1 || a.Less(first) {
					first = a
				}
			}
		}
	}
	if n > 0 {
		t.add("ForeignEndpoint", fmt.Sprintf("%d endpoints are pods of other namespaces, %s among them: requests are not sent there unless a "+
			"ReferenceGrant of that namespace lets Services of namespace %s refer to Pods", n, first, svc.Namespace))
	}
}

func slicePort(s *discoveryv1.EndpointSlice, port model.ServicePort) (uint16, bool) {
	for _, p := range s.Ports {
		name, proto := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		mp, ok := protocol(proto)
		if ok && name == port.Name && mp == port.Protocol && p.Port != nil && validPort(*p.Port) {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

// sliceConditions reads the conditions of an endpoint: unknown counts as ready; a terminating one that still serves is
// kept as a last resort.
func sliceConditions(c discoveryv1.EndpointConditions) (usable, terminating bool) {
	ready := c.Ready == nil || *c.Ready
	terminating = c.Terminating != nil && *c.Terminating
	serving := ready
	if c.Serving != nil {
		serving = *c.Serving
	}
	if terminating {
		return serving, true
	}
	return ready, false
}

// selected lists the pods of a Service's selector. It looks them up by one label and checks the others.
func (v *view) selected(svc *corev1.Service) []*corev1.Pod {
	if len(svc.Spec.Selector) == 0 {
		return nil
	}
	first := ""
	for k := range svc.Spec.Selector {
		if first == "" || k < first {
			first = k
		}
	}
	selector := labels.SelectorFromSet(svc.Spec.Selector)
	var pods []*corev1.Pod
	for p := range v.objs.Pods.By(v.Snapshot, kube.ByLabel, kube.LabelKey(svc.Namespace, first, svc.Spec.Selector[first])) {
		if selector.Matches(labels.Set(p.Labels)) {
			pods = append(pods, p)
		}
	}
	return pods
}

func (v *view) fromPods(svc *corev1.Service, pods []*corev1.Pod, port model.ServicePort) []model.Endpoint {
	var out []model.Endpoint
	for _, pod := range pods {
		terminating := pod.DeletionTimestamp != nil
		if kube.Ended(pod) || (!podReady(pod) && !svc.Spec.PublishNotReadyAddresses) {
			continue
		}
		number := targetPort(svc, port, pod)
		if !validPort(number) {
			continue
		}
		addrs, _ := v.addresses(pod)
		for _, a := range addrs {
			owner := v.podAt(a)
			if owner != nil && kube.Key(owner) != kube.Key(pod) {
				continue
			}
			out = append(out, v.endpoint(svc, netip.AddrPortFrom(a, uint16(number)), terminating, pod.Spec.NodeName))
		}
	}
	return out
}

// endpoint describes a backend. Whom to expect there follows from the address alone, never from what an EndpointSlice
// says, which anybody who may write one could make up.
func (v *view) endpoint(svc *corev1.Service, a netip.AddrPort, terminating bool, node string) model.Endpoint {
	e := model.Endpoint{Address: a, Terminating: terminating, Node: node}
	pod := v.podAt(a.Addr())
	if pod == nil {
		return e
	}
	e.NotGranted = pod.Namespace != svc.Namespace && !v.granted("", "Service", svc.Namespace, "Pod", pod.Namespace, pod.Name)
	// The slice tells it later than the pod, which may end before that.
	e.Terminating = terminating || pod.DeletionTimestamp != nil
	var ignored problems
	if w := v.member(pod, &ignored); w != nil {
		e.Workload, e.Owner, e.MTLS, e.Identity = w.Key(), w.Owner, w.MTLS, w.Identity
	}
	if pod.Spec.NodeName != "" {
		e.Node = pod.Spec.NodeName
	}
	return e
}

// podReady reads the Ready condition; where there is none (a folder of manifests has no kubelet), a pod that runs is ready.
func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return p.Status.Phase == corev1.PodRunning || p.Status.Phase == ""
}

// targetPort is the number of the pod's port behind a Service port; 0 if the pod has none of that name.
func targetPort(svc *corev1.Service, port model.ServicePort, pod *corev1.Pod) int32 {
	for _, sp := range svc.Spec.Ports {
		proto, ok := protocol(sp.Protocol)
		if !ok || sp.Port != int32(port.Port) || proto != port.Protocol {
			continue
		}
		if sp.TargetPort.Type == intstr.Int && sp.TargetPort.IntVal == 0 {
			return sp.Port
		}
		if sp.TargetPort.Type == intstr.Int {
			return sp.TargetPort.IntVal
		}
		for i := range pod.Spec.Containers {
			for _, cp := range pod.Spec.Containers[i].Ports {
				if p, ok := protocol(cp.Protocol); ok && p == proto && cp.Name == sp.TargetPort.StrVal {
					return cp.ContainerPort
				}
			}
		}
		return 0
	}
	return 0
}

// containerPort resolves a probe's port within its container.
func containerPort(c *corev1.Container, p intstr.IntOrString) int32 {
	if p.Type == intstr.Int {
		return p.IntVal
	}
	for _, cp := range c.Ports {
		if cp.Name == p.StrVal {
			return cp.ContainerPort
		}
	}
	return 0
}
