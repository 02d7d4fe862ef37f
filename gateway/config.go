package gateway

import "net/netip"

// ControllerName is the controller that GatewayClasses of this mesh name.
const ControllerName = "weft.io/gateway-controller"

// Config is what the translator knows besides objects.
type Config struct {
	// TrustDomain of the mesh's SPIFFE IDs.
	TrustDomain string
	// Node is the name of this node: pods with it in spec.nodeName are local.
	Node string
	// NodeAddresses are what Gateways listen on when there is no AddressPool.
	NodeAddresses []netip.Addr
	// ControllerName selects GatewayClasses; the constant ControllerName if empty.
	ControllerName string
	// Loaded is closed when the object tables hold all that was there at the start; nil means that they do.
	Loaded <-chan struct{}
}
