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
	// NodeAddresses are what Gateways listen on when there is no AddressPool. Only AddressesOfNode uses them.
	NodeAddresses []netip.Addr
	// ExternalIPs are the ranges in which a Service may have addresses by spec.externalIPs; with none it may have no such
	// address.
	ExternalIPs []netip.Prefix
	// Addresses tells where Gateways' addresses come from.
	Addresses AddressSource
	// APIServer is where objects are read from, if that is an address and not a name. No Service may take it.
	APIServer netip.AddrPort
	// NetNSDir is where pods' network namespaces have names; /run/netns if empty.
	NetNSDir string
	// ControllerName selects GatewayClasses; the constant ControllerName if empty.
	ControllerName string
	// Loaded is closed when the object tables hold all that was there at the start; nil means that they do.
	Loaded <-chan struct{}
}

// AddressSource tells where Gateways' addresses come from. In a cluster only one gives them, for two could disagree.
type AddressSource int

// Sources of addresses.
const (
	// AddressesOfNode gives addresses here: what a Gateway asks for, else one of the pools, else where there is no pool
	// the node's. It is for a node that is alone.
	AddressesOfNode AddressSource = iota
	// AddressesOfPools gives addresses here, of pools alone. It is for a cluster's controller: whoever may write a
	// Gateway could take any node's address otherwise.
	AddressesOfPools
	// AddressesOfStatus takes those that a Gateway's status tells of, which the controller wrote. While there are none,
	// the Gateway is not served. It is for a node of a cluster.
	AddressesOfStatus
)
