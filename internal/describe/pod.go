package describe

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weft-mesh/weft/internal/explain"
	"github.com/weft-mesh/weft/internal/model"
)

// Pod is what the mesh makes of a pod.
type Pod struct {
	*model.Workload
	// Certificate is that of its identity; nil if it has none, or if another node has it.
	Certificate *model.Certified `json:"certificate,omitempty"`
	Inbound     []Path           `json:"inbound"`
	Outbound    []Path           `json:"outbound"`
	// Services are those that lead to it.
	Services []Membership `json:"services,omitempty"`
}

// Path is how connections of one sort go.
type Path struct {
	Of      string `json:"of"`      // the peers
	Way     string `json:"way"`     // what takes them
	Outcome string `json:"outcome"` // what becomes of them
}

// Membership is a port of a Service that leads to a pod.
type Membership struct {
	Service  string         `json:"service"` // namespace/name
	Port     uint16         `json:"port"`
	Protocol model.Protocol `json:"protocol"`
	Address  netip.AddrPort `json:"address"` // of the pod
	// Terminating is true if new connections come only while there is no other endpoint.
	Terminating bool `json:"terminating,omitempty"`
	L7          bool `json:"l7,omitempty"`     // its requests go by Envoy
	Detect      bool `json:"detect,omitempty"` // only connections that begin as HTTP does have requests
}

func (d *description) pod(key string) bool {
	w, ok := d.State.Workloads.Get(d.Snapshot, key)
	if !ok {
		return false
	}
	shown := *w
	if d.Sees != nil {
		shown.NetNS, shown.Cgroup = "", "" // the node's own
	}
	p := &Pod{Workload: &shown, Inbound: d.inbound(w), Outbound: d.outbound(w), Services: d.memberships(w)}
	if w.Local && w.Identity != "" {
		p.Certificate, _ = d.State.Certified.Get(d.Snapshot, string(w.Identity))
	}
	d.out.Pod = p
	d.podProblems(w)
	return true
}

// inbound says how clients come in, in the order of the kernel's program for inbound connections.
func (d *description) inbound(w *model.Workload) []Path {
	decided := "allowed"
	if w.Policy != nil {
		decided = "as its policies allow"
	}
	plain := Path{Of: "clients in the clear", Way: string(explain.ByKernel), Outcome: decided}
	switch {
	case w.MTLS == model.MTLSStrict:
		plain.Outcome = "refused: the pod is strict"
	case w.Policy != nil:
		plain.Way = string(explain.ByEnvoy)
	}
	out := []Path{plain}
	if w.MTLS == model.MTLSStrict && len(w.Probes) > 0 {
		out = append(out, Path{Of: "the kubelet, as the pod's probes and hooks declare", Way: string(explain.ByKernel), Outcome: "allowed"})
	}
	if w.Identity == "" {
		return out
	}
	way, bytes := string(explain.ByHBONE), "clients with an identity, bytes"
	routed, requests := string(explain.ByEnvoyHBONE), "clients with an identity, requests of routes"
	inspected, all := w.Policy.InspectedPorts()
	if d.Tunnel && !all && d.TunnelServes(w) {
		way, routed = string(explain.ByTunnel), string(explain.ByEnvoyTunnel)
		if len(inspected) > 0 {
			to := fmt.Sprintf(" to ports %v", inspected)
			out = append(out, Path{Of: bytes + to, Way: string(explain.ByHBONE), Outcome: decided},
				Path{Of: requests + to, Way: string(explain.ByEnvoyHBONE), Outcome: decided})
			bytes += " to other ports"
			requests += " to other ports"
		}
	}
	return append(out, Path{Of: bytes, Way: way, Outcome: decided}, Path{Of: requests, Way: routed, Outcome: decided})
}

// outbound says how the pod's own connections leave.
func (d *description) outbound(w *model.Workload) []Path {
	routed := Path{Of: "Service ports that are L7", Way: string(explain.ByEnvoy), Outcome: "as the routes say"}
	rest := Path{Of: "all else", Way: string(explain.ByKernel), Outcome: "in the clear"}
	if w.Identity == "" {
		return []Path{routed, rest}
	}
	routed.Outcome += ", authenticated if the endpoint has an identity"
	bytes := Path{Of: "pods with an identity", Way: string(explain.ByHBONE), Outcome: "authenticated and encrypted"}
	if d.Tunnel && d.TunnelServes(w) {
		bytes.Way = string(explain.ByTunnel)
	}
	return []Path{routed, bytes, rest}
}

// memberships finds the ports of Services that have the pod behind them.
func (d *description) memberships(w *model.Workload) []Membership {
	var out []Membership
	for row := range d.State.Endpoints.All(d.Snapshot) {
		if !d.seesKey(row.Service) {
			continue
		}
		for _, b := range row.Backends {
			if b.Workload != w.Key() && !slices.Contains(w.Addresses, b.Address.Addr()) {
				continue
			}
			port := d.servicePort(row)
			out = append(out, Membership{
				Service: row.Service, Port: row.Port, Protocol: row.Protocol, Address: b.Address, Terminating: b.Terminating,
				L7: port.L7, Detect: port.Detect,
			})
		}
	}
	return out
}

// servicePort returns the TCP port that endpoints are of; one without a number if there is none.
func (d *description) servicePort(row *model.Endpoints) model.ServicePort {
	s, ok := d.State.Services.Get(d.Snapshot, row.Service)
	if !ok || row.Protocol != model.TCP {
		return model.ServicePort{}
	}
	p, _ := s.Port(row.Port)
	return p
}

// podProblems lists what keeps a pod from being served as its mode and policies say.
func (d *description) podProblems(w *model.Workload) {
	if len(w.Addresses)+len(w.Contested) == 0 {
		d.problem("the pod has no address yet", "see kubectl describe pod: it waits for its network")
	}
	if len(w.Contested) > 0 {
		d.problem(fmt.Sprintf("several pods claim %v: nobody has an identity there, and what must be authenticated is refused both ways", w.Contested),
			"delete the pod that has the address by mistake: an old one that its node no longer runs, or one whose status was written by hand")
	}
	if w.Identity != "" {
		if why := d.Certificate(w.Identity, w.Local); why != "" {
			d.problem(why, "see the faults of its node (weft status)")
		}
	}
	if row, ok := d.State.Carried.Get(d.Snapshot, model.Subject{Kind: model.SubjectWorkload, Name: w.Key()}.Key()); ok && row.PortTaken {
		d.problem("weft tunnel cannot listen in the pod: "+row.Error, freePort)
	}
	for _, text := range d.Behind(w) {
		d.problem(text, "see the faults of its node (weft status); it lasts a moment after a change")
	}
	d.rejections(model.ObjectRef{Kind: KindPod, Namespace: w.Namespace, Name: w.Name})
}
