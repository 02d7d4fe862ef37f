package proxy

import "time"

// Status of a supervised Envoy, as `weft status` shows it.
type Status struct {
	PID     int    `json:"pid,omitempty"` // of Envoy; 0 while none runs
	Epoch   int    `json:"epoch"`         // hot restarts since the last cold start
	Live    bool   `json:"live"`          // answers /ready: it has its first configuration and serves
	State   string `json:"state"`         // LIVE, INITIALIZING, PRE_INITIALIZING, DRAINING; STOPPED, or UNKNOWN when its admin does not answer
	Version string `json:"version,omitempty"`
	Binary  string `json:"binary,omitempty"`

	Since time.Time `json:"since,omitzero"` // start of this Envoy
	// Restarts and Crashes are counted by this supervisor and those that handed over to it.
	Restarts int `json:"restarts"`
	Crashes  int `json:"crashes"`
	// Overload has the actions of Envoy's overload manager, as "stop_accepting_requests", and whether each is active. An
	// Envoy with an active one is short of memory. Nil until it was asked.
	Overload map[string]bool `json:"overload,omitempty"`
	// LastError is why the last start, restart or run failed; "" after a success.
	LastError string `json:"lastError,omitempty"`
	// Draining are the Envoys before this one that have not ended yet.
	Draining []int `json:"draining,omitempty"`
	// Tunnel is weft tunnel; nil where the supervisor has none to run.
	Tunnel *TunnelStatus `json:"tunnel,omitempty"`
	// Supervisor is the pid of `weft proxy`.
	Supervisor int `json:"supervisor"`
	// InPod: it runs in a pod, where the kubelet starts it again.
	InPod bool `json:"inPod,omitempty"`

	// From Envoy's admin; absent when it does not answer.
	AllocatedBytes uint64 `json:"allocatedBytes,omitempty"` // in use by Envoy
	HeapBytes      uint64 `json:"heapBytes,omitempty"`      // taken from the kernel for the heap
	ResidentBytes  uint64 `json:"residentBytes,omitempty"`  // of the process, from /proc
	XDSConnected   bool   `json:"xdsConnected"`
	Listeners      int    `json:"listeners"` // active
	Connections    int    `json:"connections"`
}

// TunnelStatus is the weft tunnel that takes new connections.
type TunnelStatus struct {
	PID   int       `json:"pid,omitempty"` // 0 while none runs
	Since time.Time `json:"since,omitzero"`
	// Crashes are counted by this supervisor alone.
	Crashes int `json:"crashes"`
	// LastError is why the last one did not start, or how it ended; "" after it ran for a minute.
	LastError string `json:"lastError,omitempty"`
}
