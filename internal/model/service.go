package model

import (
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Service is a Kubernetes Service with its ports.
type Service struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"` // ClusterIPs, external and load balancer addresses
	// Refused are addresses that are not balanced, because the Service is over its namespace's budget. Connections to them
	// that would have to be authenticated are refused.
	Refused []netip.Addr `json:"refused,omitempty"`
	// Affinity is the ClientIP session affinity's timeout; 0 is none.
	Affinity time.Duration `json:"affinity,omitempty"`
	Ports    []ServicePort `json:"ports"`
}

// Key is the service's key in its table.
func (s *Service) Key() string { return Key(s.Namespace, s.Name) }

// Port finds a TCP port by number.
func (s *Service) Port(number uint16) (ServicePort, bool) {
	for _, p := range s.Ports {
		if p.Port == number && p.Protocol == TCP {
			return p, true
		}
	}
	return ServicePort{}, false
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name     string   `json:"name,omitempty"`
	Port     uint16   `json:"port"`
	Protocol Protocol `json:"protocol"`
	// AppProtocol as in the Service: "", "http", "kubernetes.io/h2c", "kubernetes.io/ws", ...
	AppProtocol string `json:"appProtocol,omitempty"`
	// L7 ports are handed to Envoy: a route or an L7 policy targets them, or the label weft.io/l7: enabled asks for it.
	L7 bool `json:"l7,omitempty"`
	// Detect is set for L7 ports of which nothing says that they speak HTTP. Envoy takes a connection as HTTP if its first
	// bytes are HTTP's, and otherwise carries its bytes to an endpoint of the Service.
	Detect bool `json:"detect,omitempty"`
	// SNI is set for ports that TLSRoutes have, for all callers or for those of some namespaces. Envoy reads the server name of
	// their connections, and a Division says where each leads.
	SNI bool `json:"sni,omitempty"`
}

// Detects reports whether the service has a port whose connections are looked at to find out what they speak.
func (s *Service) Detects() bool {
	return slices.ContainsFunc(s.Ports, func(p ServicePort) bool { return p.Detect })
}

// ReadsNames reports whether the service has a port whose connections go by their server name.
func (s *Service) ReadsNames() bool {
	return slices.ContainsFunc(s.Ports, func(p ServicePort) bool { return p.SNI })
}

// PortKey names a port of a service: the key of Endpoints, the name of its cluster ("service/" + PortKey) and of its
// route table. UDP ports carry a suffix, so that one number can serve both.
func PortKey(namespace, name string, port uint16, proto Protocol) string {
	k := namespace + "/" + name + "/" + strconv.Itoa(int(port))
	if proto == UDP {
		k += "/udp"
	}
	return k
}

// Endpoints are the backends behind one service port.
type Endpoints struct {
	Service  string     `json:"service"` // namespace/name
	Port     uint16     `json:"port"`
	Protocol Protocol   `json:"protocol"`
	Backends []Endpoint `json:"backends"` // sorted by address
}

// Key is the PortKey of its port.
func (e *Endpoints) Key() string {
	ns, name := SplitKey(e.Service)
	return PortKey(ns, name, e.Port, e.Protocol)
}

// Endpoint is an address that serves a service port.
type Endpoint struct {
	Address netip.AddrPort `json:"address"`
	// Workload is namespace/name of the pod behind it, "" if none is known. Owner, MTLS and Identity are the pod's.
	Workload string   `json:"workload,omitempty"`
	Owner    Owner    `json:"owner,omitzero"` // of that pod
	MTLS     MTLSMode `json:"mtls"`
	Identity Identity `json:"identity,omitempty"`
	Node     string   `json:"node,omitempty"`
	// NotGranted endpoints are pods of another namespace than the Service's, which no ReferenceGrant there allows. The kernel
	// balances to them, as kube-proxy does. Envoy sends nothing there, for it would lend an identity to who wrote the
	// EndpointSlice.
	NotGranted bool `json:"notGranted,omitempty"`
	// Terminating endpoints get new connections only when no other endpoint is left. Endpoints that are not
	// ready do not appear at all.
	Terminating bool `json:"terminating,omitempty"`
}

// CountedAs returns the namespace and the owner that traffic to the endpoint is counted as; both are empty if no pod is
// known there.
func (e *Endpoint) CountedAs() (namespace string, owner Owner) {
	if e.Workload == "" {
		return "", Owner{}
	}
	namespace, name := SplitKey(e.Workload)
	return namespace, countedAs(e.Owner, name)
}

// MaxFrontends and MaxSlots are the sizes of the kernel's tables of Services: their addresses with each port, and their
// backends. All Services of the cluster share them on each node.
const (
	MaxFrontends = 1 << 16
	MaxSlots     = 1 << 19
)
