package model

// Ports on which Envoy listens in the network namespace of a local workload. The eBPF programs take them from
// datapath/bpf/ports.h, which is generated from here.
const (
	PortHTTP    = 15001 // outbound HTTP, on loopback
	PortTCP     = 15002 // outbound bytes, on loopback
	PortInbound = 15006 // inbound in the clear, where a policy selects the workload
	PortHBONE   = 15008 // inbound mTLS
)

// ProxyMark is the mark (SO_MARK) of Envoy's connections to the workload that keep the client's address.
const ProxyMark = 1337
