package model

// Ports on which the mesh listens in the network namespace of a local workload: Envoy, and weft tunnel where it runs.
// The eBPF programs take them from datapath/bpf/ports.h, which is generated from here.
const (
	PortHTTP      = 15001 // Envoy: outbound HTTP, on loopback
	PortTCP       = 15002 // Envoy: outbound bytes, on loopback
	PortTunnelOut = 15003 // weft tunnel: outbound bytes, on loopback
	PortInbound   = 15006 // Envoy: inbound in the clear, where a policy selects the workload
	PortHBONE     = 15008 // Envoy: inbound mTLS
	PortTunnel    = 15009 // weft tunnel: sessions of other pods
)

// ProxyMark is the mark (SO_MARK) of Envoy's connections to the workload that keep the client's address.
const ProxyMark = 1337

// RuntimeLimits names the layer of Envoy's runtime values that the agent serves: how many connections each listener of a
// Gateway may have.
const RuntimeLimits = "limits"

// IsOwnPort reports whether the mesh listens on a port in each pod. Nobody reaches one through the mesh: a proxy would call
// itself.
func IsOwnPort(port uint16) bool {
	switch port {
	case PortHTTP, PortTCP, PortTunnelOut, PortInbound, PortHBONE, PortTunnel:
		return true
	}
	return false
}
