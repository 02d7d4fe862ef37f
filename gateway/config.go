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
	// NodeAddresses are this node's. With AddressesOfNode, Gateways listen on them if there is no AddressPool.
	NodeAddresses []netip.Addr
	// ExternalIPs are the ranges in which a Service may have addresses by spec.externalIPs; with none it may have no such
	// address.
	ExternalIPs []netip.Prefix
	// NamespaceShare is the percentage of the kernel's tables of Services that one namespace may have; 0 is 25. All nodes
	// and the controller must have the same.
	NamespaceShare int
	// RequestExpressions is how many regular expressions of a namespace's routes a request may be compared with; 0 is 256. All
	// nodes and the controller must have the same.
	RequestExpressions int
	// Addresses is where Gateways' addresses come from.
	Addresses AddressSource
	// APIServer is where objects are read from, if that is an address and not a name. No Service may take it.
	APIServer netip.AddrPort
	// ControllerName selects GatewayClasses; the constant ControllerName if empty.
	ControllerName string
	// Retained returns what an earlier translator kept. It is called once, after Loaded; nil means that nothing was kept.
	Retained func() Retained
	// Loaded is closed when the object tables hold all that was there at the start; nil means that they do.
	Loaded <-chan struct{}
}

// AddressSource is where Gateways' addresses come from. In a cluster the controller alone assigns them: two that assign
// could disagree.
type AddressSource int

// Sources of addresses.
const (
	// AddressesOfNode assigns addresses here: what a Gateway asks for, else one of the pools, or the node's if there is
	// no pool. It is for a single node.
	AddressesOfNode AddressSource = iota
	// AddressesOfPools assigns addresses here, from pools alone. It is for a cluster's controller: otherwise whoever may
	// write a Gateway could take any node's address.
	AddressesOfPools
	// AddressesOfStatus reads them from the Gateway's status, where the controller wrote them. While there are none, the
	// Gateway is not served. It is for a node of a cluster.
	AddressesOfStatus
)
