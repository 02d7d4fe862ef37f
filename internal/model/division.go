package model

// Division is how the kernel divides the connections to a TCP port of a Service among the backends of a TCPRoute: those of all
// callers, or of those in one namespace, whose Division goes before that of all.
type Division struct {
	Service string    `json:"service"` // namespace/name
	Port    uint16    `json:"port"`
	Route   ObjectRef `json:"route"`
	// CallerNamespace is the namespace of the callers; "" is anybody.
	CallerNamespace string  `json:"callerNamespace,omitempty"`
	Shares          []Share `json:"shares,omitempty"` // all connections are refused if there is none
}

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
