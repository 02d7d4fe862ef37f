package model

import "net/netip"

// broadcast is the limited broadcast address (RFC 919).
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// IsRoutable reports whether an address can be that of a Service, a pod, a Gateway or an endpoint: whether it leads to
// one place in the network, and to the same from every node. Loopback and link-local addresses (RFC 4291, RFC 3927) do
// not: each machine has its own. An IPv4 address mapped to IPv6 counts as the IPv4 address that it stands for.
func IsRoutable(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsValid() && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() &&
		!a.IsLinkLocalUnicast() && a != broadcast
}
