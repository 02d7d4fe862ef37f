package model

// Division is how the connections to a TCP port of a Service are divided: those of all callers, or of those in one namespace, whose
// Division goes before that of all. The kernel divides them among the backends of a TCPRoute, or Envoy among TLSRoutes, by Names.
type Division struct {
	Service string    `json:"service"` // namespace/name
	Port    uint16    `json:"port"`
	Route   ObjectRef `json:"route,omitzero"` // the TCPRoute
	// CallerNamespace is the namespace of the callers; "" is anybody.
	CallerNamespace string  `json:"callerNamespace,omitempty"`
	Shares          []Share `json:"shares,omitempty"` // of the TCPRoute; all connections are refused if there is none
	// Names are the server names that TLSRoutes take, the more specific ones first. Connections without one of these, and what is
	// not TLS, are closed.
	Names []GatewayStream `json:"names,omitempty"`
}

// ByName reports whether the Division is that of TLSRoutes.
func (d *Division) ByName() bool { return len(d.Names) > 0 }

// Key is the DivisionKey of its port.
func (d *Division) Key() string {
	ns, name := SplitKey(d.Service)
	return DivisionKey(PortKey(ns, name, d.Port, TCP), d.CallerNamespace)
}

// DivisionKey is the key of the Division of a port, by its PortKey, for the callers of a namespace; "" for those of all callers.
func DivisionKey(port, callerNamespace string) string {
	if callerNamespace == "" {
		return port
	}
	return port + " from " + callerNamespace
}

// Share is what a backend gets. If the backend is Invalid, or has no endpoint, its share is refused.
type Share struct {
	Backend
	Endpoints []Endpoint `json:"endpoints,omitempty"`
}

// MaxDivision bounds the slots in the kernel of a Division for each family of addresses. Shares that need no more are exact,
// others are as near as so many slots allow, and each backend has one at least.
const MaxDivision = 512
