package model

import "slices"

// Ports on which the mesh listens in the network namespace of a local workload: Envoy, and weft tunnel where it runs.
// The eBPF programs take them from datapath/bpf/ports.h, which is generated from here.
const (
	PortHTTP      = 15001 // Envoy: outbound HTTP, on loopback
	PortTCP       = 15002 // Envoy: outbound bytes, on loopback
	PortTunnelOut = 15003 // weft tunnel: outbound bytes, on loopback
	PortDetect    = 15004 // Envoy: outbound, HTTP or bytes, on loopback; while a Service of the cluster needs it
	PortSNI       = 15005 // Envoy: outbound TLS that TLSRoutes divide, on loopback; while a Service of the cluster needs it
	PortInbound   = 15006 // Envoy: inbound in the clear, where a policy selects the workload
	PortHBONE     = 15008 // Envoy: inbound mTLS
	PortTunnel    = 15009 // weft tunnel: sessions of other pods
)

// ProxyMark is the mark (SO_MARK) of Envoy's connections to the workload that keep the client's address.
const ProxyMark = 1337

// BytesMark is the mark of Envoy's connections on behalf of a workload that the kernel's programs treat as the workload's own, to a
// Service port without routes. On any other socket it means no more than that the port's routes do not apply.
const BytesMark = 1338

// Types of the values that Envoy sends to weft tunnel with a connection, among those that the PROXY protocol leaves to applications.
const (
	ProxyOwner       = 0xE0 // whose it is: <namespace>/<pod>, or gateway/<namespace>/<name>
	ProxyIdentity    = 0xE1 // the owner's SPIFFE ID
	ProxyDestination = 0xE2 // the endpoint: address:port
	ProxyOthers      = 0xE3 // other endpoints of the backend, separated by commas; optional
	ProxyPeer        = 0xE4 // the SPIFFE ID that all these endpoints must have; optional
)

// MaxProxyOthers bounds the endpoints that are tried after the first one.
const MaxProxyOthers = 2

// RuntimeLimits names the layer of Envoy's runtime values that the agent serves: how many connections each listener of a
// Gateway may have.
const RuntimeLimits = "limits"

// OwnPorts are those on which the mesh listens in pods. Nobody reaches one through the mesh: a proxy would call itself.
var OwnPorts = []uint16{PortHTTP, PortTCP, PortTunnelOut, PortDetect, PortSNI, PortInbound, PortHBONE, PortTunnel}

// IsOwnPort reports whether the mesh listens on a port in pods.
func IsOwnPort(port uint16) bool { return slices.Contains(OwnPorts, port) }
