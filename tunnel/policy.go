package tunnel

import (
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// ownPort reports whether the mesh listens on a port in each pod. Nobody reaches one through a tunnel: a proxy would call
// itself.
func ownPort(port uint16) bool {
	switch port {
	case model.PortHTTP, model.PortTCP, model.PortTunnelOut, model.PortInbound, model.PortHBONE, model.PortTunnel:
		return true
	}
	return false
}

// decision is what a policy says of a connection.
type decision uint8

const (
	denied    decision = iota
	carried            // the application gets its bytes
	inspected          // a rule looks at the requests in it, so it must come to Envoy
)

// decide applies a policy, nil for none, to a connection of a peer to a port. A port whose requests some rule looks at
// takes HTTP only, whoever speaks.
func decide(p *model.Policy, peer model.Identity, port uint16) decision {
	if ownPort(port) {
		return denied
	}
	if p == nil {
		return carried
	}
	out := denied
	for _, r := range p.Rules {
		if covers(r, port) && names(r, peer) {
			out = carried
		}
	}
	if out == carried && slices.ContainsFunc(p.Rules, func(r model.PolicyRule) bool { return covers(r, port) && len(r.HTTP) > 0 }) {
		return inspected
	}
	return out
}

func covers(r model.PolicyRule, port uint16) bool {
	return len(r.Ports) == 0 || slices.Contains(r.Ports, port)
}

func names(r model.PolicyRule, peer model.Identity) bool {
	return r.Sources == nil || slices.ContainsFunc(r.Sources, func(s model.PolicySource) bool {
		return s.Identity != "" && s.Identity == peer || s.Namespace != "" && s.Namespace == peer.Namespace()
	})
}
