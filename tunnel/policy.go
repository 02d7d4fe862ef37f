package tunnel

import "github.com/weft-mesh/weft/internal/model"

// decision is what a policy says of a connection.
type decision = model.Admission

const (
	denied    = model.Denied
	carried   = model.Admitted  // the application gets its bytes
	inspected = model.Inspected // a rule looks at the requests in it, so it must come to Envoy
)

// decide applies a policy, nil for none, to a connection of a peer to a port.
func decide(p *model.Policy, peer model.Identity, port uint16) decision {
	if model.IsOwnPort(port) {
		return denied
	}
	return p.Admit(peer, port)
}
