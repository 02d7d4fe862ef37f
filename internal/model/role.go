package model

// NodeRole is what the cluster's controller lets this node do.
type NodeRole struct {
	// Gateways reports whether the node may serve Gateways, and so hold their certificates' keys.
	Gateways bool `json:"gateways"`
}

// Key is the same for all: a node has one row.
func (*NodeRole) Key() string { return "" }
