package model

import "slices"

// Policy is the union of the AuthorizationPolicies that select a workload. What no rule allows is refused.
type Policy struct {
	// Names of the policies it comes from, namespace/name, sorted.
	Names []string `json:"names"`
	// Generations of these policies, in the same order; nil if none has one.
	Generations []int64      `json:"generations,omitempty"`
	Rules       []PolicyRule `json:"rules"`
}

// HTTP is true when a rule looks at requests, so that the traffic must be parsed.
func (p *Policy) HTTP() bool {
	if p == nil {
		return false
	}
	for _, r := range p.Rules {
		if len(r.HTTP) > 0 {
			return true
		}
	}
	return false
}

// PolicyRule allows traffic that matches each of its non-empty fields.
type PolicyRule struct {
	// Sources match any; a rule that can match no source (nobody) has Sources non-nil and empty and is left out before.
	Sources []PolicySource `json:"sources,omitempty"`
	Ports   []uint16       `json:"ports,omitempty"`
	HTTP    []HTTPRule     `json:"http,omitempty"`
	// Of is the rule of a policy that this is: AuthorizationPolicy/namespace/name/number. It is not part of what is sent: a weft tunnel
	// of an earlier version lets nobody in where a policy has what it does not know.
	Of string `json:"-"`
}

// PolicySource has exactly one field set.
type PolicySource struct {
	Identity  Identity `json:"identity,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
}

// HTTPRule matches a request: any of Methods (all if empty) and any of Paths (all if empty).
type HTTPRule struct {
	Methods []string    `json:"methods,omitempty"`
	Paths   []PathMatch `json:"paths,omitempty"`
}

// Admission is what a policy says of a connection before anything of it is read.
type Admission uint8

// Inspected connections must be HTTP: a rule looks at the requests on that port, whoever the client is.
const (
	Denied Admission = iota
	Admitted
	Inspected
)

// Admit applies a policy, nil for none, to a connection to a port. The peer is the identity that the client has proven, ""
// for none.
func (p *Policy) Admit(peer Identity, port uint16) Admission {
	switch {
	case p == nil:
		return Admitted
	case p.AdmittingRule(peer, port) < 0:
		return Denied
	case p.InspectsPort(port):
		return Inspected
	}
	return Admitted
}

// AdmittingRule returns the index of the first rule that allows a peer on a port, perhaps certain requests alone; -1 if none
// does.
func (p *Policy) AdmittingRule(peer Identity, port uint16) int {
	return slices.IndexFunc(p.Rules, func(r PolicyRule) bool { return r.CoversPort(port) && r.CoversPeer(peer) })
}

// InspectsPort reports whether a rule looks at the requests on a port.
func (p *Policy) InspectsPort(port uint16) bool {
	return p != nil && slices.ContainsFunc(p.Rules, func(r PolicyRule) bool { return r.CoversPort(port) && len(r.HTTP) > 0 })
}

// maxInspectedPorts bounds the ports of a workload that programs tell apart.
const maxInspectedPorts = 64

// InspectedPorts lists the ports to which connections of workloads with an identity go by Envoy, because a rule looks at requests
// there. all is true if Envoy takes every port: a rule names none, or they are too many to be told apart.
func (p *Policy) InspectedPorts() (ports []uint16, all bool) {
	if ports, all = p.RequestPorts(); len(ports) > maxInspectedPorts {
		return nil, true
	}
	return ports, all
}

// RequestPorts returns the ports whose bytes must be HTTP, because a rule looks at requests there, sorted; all is true if that is
// every port.
func (p *Policy) RequestPorts() (ports []uint16, all bool) {
	return p.PortsOf(func(r *PolicyRule) bool { return len(r.HTTP) > 0 })
}

// PortsOf returns the ports of the rules that are chosen, sorted; all is true if one of them is for every port.
func (p *Policy) PortsOf(chosen func(*PolicyRule) bool) (ports []uint16, all bool) {
	if p == nil {
		return nil, false
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		if !chosen(r) {
			continue
		}
		if len(r.Ports) == 0 {
			return nil, true
		}
		ports = append(ports, r.Ports...)
	}
	slices.Sort(ports)
	return slices.Compact(ports), false
}

// ByEnvoy reports whether connections of workloads with an identity to a port go by Envoy.
func (p *Policy) ByEnvoy(port uint16) bool {
	ports, all := p.InspectedPorts()
	return all || slices.Contains(ports, port)
}

// AllowingRule returns the index of the first rule that allows a request on a port; -1 if none does. The path has no query
// and no dot segments.
func (p *Policy) AllowingRule(peer Identity, port uint16, method, path string) int {
	return slices.IndexFunc(p.Rules, func(r PolicyRule) bool {
		return r.CoversPort(port) && r.CoversPeer(peer) && r.CoversRequest(method, path)
	})
}

// ComparesPaths reports whether a rule looks at paths.
func (p *Policy) ComparesPaths() bool {
	return p != nil && slices.ContainsFunc(p.Rules, func(r PolicyRule) bool {
		return slices.ContainsFunc(r.HTTP, func(h HTTPRule) bool { return len(h.Paths) > 0 })
	})
}

// CoversPort reports whether the rule is about a port.
func (r *PolicyRule) CoversPort(port uint16) bool {
	return len(r.Ports) == 0 || slices.Contains(r.Ports, port)
}

// CoversPeer reports whether the rule allows a client that has proven an identity, "" for none.
func (r *PolicyRule) CoversPeer(peer Identity) bool {
	return r.Sources == nil || slices.ContainsFunc(r.Sources, func(s PolicySource) bool {
		return s.Identity != "" && s.Identity == peer || s.Namespace != "" && s.Namespace == peer.Namespace()
	})
}

// CoversRequest reports whether the rule allows a request. The path has no query and no dot segments.
func (r *PolicyRule) CoversRequest(method, path string) bool {
	return len(r.HTTP) == 0 || slices.ContainsFunc(r.HTTP, func(h HTTPRule) bool {
		return h.CoversMethod(method) && h.CoversPath(path)
	})
}

// CoversMethod reports whether the rule allows a method.
func (h *HTTPRule) CoversMethod(method string) bool {
	return len(h.Methods) == 0 || slices.Contains(h.Methods, method)
}

// CoversPath reports whether the rule allows a path, which has no query and no dot segments.
func (h *HTTPRule) CoversPath(path string) bool {
	return len(h.Paths) == 0 || slices.ContainsFunc(h.Paths, func(m PathMatch) bool { return m.Matches(path) })
}
