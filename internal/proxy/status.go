package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"time"
)

// followTick is how often who follows the status hears something at least. After followPatience of silence the supervisor
// counts as one that does not answer.
const (
	followTick     = time.Second
	followPatience = 4 * time.Second
)

// Status of a supervised Envoy, as `weft status` shows it.
type Status struct {
	PID     int    `json:"pid,omitempty"` // of Envoy; 0 while none runs
	Epoch   int    `json:"epoch"`         // hot restarts since the last cold start
	Live    bool   `json:"live"`          // answers /ready: it has its first configuration and serves
	State   string `json:"state"`         // LIVE, INITIALIZING, PRE_INITIALIZING, DRAINING; STOPPED, or UNKNOWN when its admin does not answer
	Version string `json:"version,omitempty"`
	Binary  string `json:"binary,omitempty"`

	Since time.Time `json:"since,omitzero"` // start of this Envoy
	// Restarts, Overloads and Crashes are counted by this supervisor and those that handed over to it. Overloads are the
	// restarts in place of an Envoy that stayed in overload.
	Restarts  int `json:"restarts"`
	Overloads int `json:"overloads,omitempty"`
	Crashes   int `json:"crashes"`
	// Overload has the actions of Envoy's overload manager, as "stop_accepting_requests", and whether each is active. An
	// Envoy with an active one is short of memory. model.OverloadConnections is there too. Nil until it was asked.
	Overload map[string]bool `json:"overload,omitempty"`
	// LogsDropped counts entries of the access log, which become flows, that Envoys dropped since this supervisor began, because
	// the agent took them too slowly.
	LogsDropped uint64 `json:"logsDropped,omitempty"`
	// CopiesDropped counts copies of requests for mirrors that Envoys dropped since this supervisor began, because too many
	// were under way.
	CopiesDropped uint64 `json:"copiesDropped,omitempty"`
	// Unanswered are the requests that failed last because no agent answered; nil if none did since this supervisor began.
	Unanswered *Unanswered `json:"unanswered,omitempty"`
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

// known returns the status as far as the supervisor knows it without asking Envoy: without memory, listeners and
// connections, and with the state that Envoy had a moment ago.
func (s *supervisor) known() *Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &Status{
		State: "STOPPED", Restarts: s.restarts, Overloads: s.overloads, Crashes: s.crashes, LastError: s.lastError,
		Supervisor: os.Getpid(), InPod: s.cfg.InPod, LogsDropped: s.losses.logsDropped, CopiesDropped: s.losses.copiesDropped,
	}
	if u := s.losses.unanswered; u.Requests > 0 {
		st.Unanswered = &u
	}
	if len(s.cfg.Tunnel) > 0 {
		tunnel := s.tunnel
		st.Tunnel = &tunnel
	}
	for _, d := range s.draining {
		st.Draining = append(st.Draining, d.PID)
	}
	p := s.current
	if p == nil || p.gone() {
		return st
	}
	st.PID, st.Epoch, st.Since, st.Binary, st.Live = p.PID, p.Epoch, p.Since, p.Binary, p.live.Load()
	if v := p.version.Load(); v != nil {
		st.Version = *v
	}
	switch {
	case !st.Live:
		st.State = "INITIALIZING"
	case s.polled != nil && s.polled.of == p:
		st.State, st.Overload = s.polled.state, s.polled.overload
	default:
		st.State = "LIVE"
	}
	return st
}

// status asks Envoy's admin for what the supervisor does not know itself.
func (s *supervisor) status(ctx context.Context) *Status {
	st := s.known()
	p := s.serves()
	if p == nil || p.PID != st.PID {
		return st
	}
	st.ResidentBytes = residentBytes(p.PID)
	st.State = "UNKNOWN"
	info, err := s.admin.info(ctx)
	if err != nil || !info.of(p.envoy) {
		return st
	}
	st.State, st.Version, st.Live = info.State, info.release(), s.isLive(ctx, p)
	if m, err := s.admin.memory(ctx); err == nil {
		st.AllocatedBytes, st.HeapBytes = m.Allocated, m.HeapSize
	}
	if c, err := s.admin.counters(ctx, `^(control_plane\.connected_state|listener_manager\.total_listeners_active|server\.total_connections)$`); err == nil {
		st.XDSConnected = c["control_plane.connected_state"] == 1
		st.Listeners = int(c["listener_manager.total_listeners_active"])
		st.Connections = int(c["server.total_connections"])
	}
	return st
}

// follow writes what is known, a JSON text a line, each time that it changes, until the client goes or ctx ends. An empty
// line says that nothing has changed.
func (s *supervisor) follow(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	tick := time.NewTicker(followTick)
	defer tick.Stop()
	var last []byte
	for {
		changed := s.awaitChange()
		text, err := json.Marshal(s.known())
		if err != nil {
			return // not possible
		}
		line := text
		if bytes.Equal(text, last) {
			line = nil
		}
		last = text
		if _, err := w.Write(append(line, '\n')); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-r.Context().Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}
