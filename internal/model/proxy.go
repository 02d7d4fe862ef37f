package model

import "time"

// Proxy is this node's Envoy and weft tunnel, as the weft proxy that supervises them reports. A node has one row; it has
// none before the agent has asked for the first time.
type Proxy struct {
	Version  string `json:"version,omitempty"`
	State    string `json:"state"` // Envoy's: LIVE, DRAINING, PRE_INITIALIZING, INITIALIZING; "" if weft proxy does not answer
	PID      int    `json:"pid,omitempty"`
	Epoch    int    `json:"epoch"` // hot restarts of this line of Envoys
	Restarts int    `json:"restarts"`
	// Overloads are the restarts in place of an Envoy that stayed in overload.
	Overloads int `json:"overloads,omitempty"`
	// Crashes are the Envoys that ended by themselves.
	Crashes int       `json:"crashes,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// OverloadActions are the actions of Envoy's overload manager and OverloadConnections, Overload those that are active. Both are sorted.
	Overload        []string `json:"overload,omitempty"`
	OverloadActions []string `json:"overloadActions,omitempty"`
	// Tunnel is nil if weft proxy runs no weft tunnel.
	Tunnel *TunnelProcess `json:"tunnel,omitempty"`
	// Unanswered are the requests that failed last because no agent answered; nil if none did.
	Unanswered *Unanswered `json:"unanswered,omitempty"`
	// Error is the last one, of weft proxy or of the way to it.
	Error string `json:"error,omitempty"`
}

// OverloadConnections is what Overload names while Envoy has as many connections as it may have and refuses others. It is none of the
// overload manager's actions.
const OverloadConnections = "max_connections"

// Unanswered are requests of workloads that Envoy answered with 503 and its response flag SI, because no agent told it the routes
// of their Service in time.
type Unanswered struct {
	Requests uint64    `json:"requests"` // that failed between From and To
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Total    uint64    `json:"total"` // those before too, since weft proxy began
}

// TunnelProcess is the weft tunnel that takes new connections.
type TunnelProcess struct {
	PID     int    `json:"pid,omitempty"`     // 0 while none runs
	Crashes int    `json:"crashes,omitempty"` // of this weft proxy's
	Error   string `json:"error,omitempty"`   // why the last one did not start, or how it ended
}

// Key is the same for all rows: there is only one.
func (*Proxy) Key() string { return "envoy" }
