package model

// Division is how the kernel divides the connections to a TCP port of a Service among the backends of a TCPRoute.
type Division struct {
	Service string    `json:"service"` // namespace/name
	Port    uint16    `json:"port"`
	Route   ObjectRef `json:"route"`
	Shares  []Share   `json:"shares,omitempty"` // all connections are refused if there is none
}

// Key is the PortKey of its port.
func (d *Division) Key() string {
	ns, name := SplitKey(d.Service)
	return PortKey(ns, name, d.Port, TCP)
}

// Share is what a backend gets. If the backend is Invalid, or has no endpoint, its share is refused.
type Share struct {
	Backend
	Endpoints []Endpoint `json:"endpoints,omitempty"`
}

// MaxDivision bounds the slots in the kernel of a Division for each family of addresses. Shares that need no more are exact,
// others are as near as so many slots allow, and each backend has one at least.
const MaxDivision = 512
