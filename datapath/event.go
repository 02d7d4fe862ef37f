package datapath

import (
	"net/netip"
	"time"
)

// Verdict is what the kernel did with a connection.
type Verdict uint8

// Kernel connections never met a proxy; L7 ones went to Envoy's 15001, MTLS ones to its 15002 (outbound), or to 15006
// (inbound, L7). The numbers are those of bpf/event.h.
const (
	VerdictKernel Verdict = iota + 1
	VerdictL7
	VerdictMTLS
	VerdictRefused
)

func (v Verdict) String() string {
	return name([]string{"", "kernel", "l7", "mtls", "refused"}, int(v))
}

// MarshalText gives the name.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Reason says why a connection was refused.
type Reason uint8

// The numbers are those of bpf/event.h.
const (
	ReasonNone          Reason = iota
	ReasonNoBackend            // the Service has no ready endpoint
	ReasonNoProxy              // mTLS is strict at one end, and Envoy does not listen on 15002
	ReasonPlaintext            // the workload is strict, and the peer came in the clear
	ReasonNoPolicyPort         // a policy selects the workload, and Envoy does not listen on 15006
	ReasonNotProgrammed        // the workload's own entry is missing: the kernel's map is full
	ReasonContested            // nobody has an identity at the address: several pods claim it, or it is of a Service that is not balanced
	ReasonStrangers            // too many connections a second to 15008 or 15009 from where no peer is known to be; it tries again
	ReasonUndeclared           // a process of the node sent what no probe of the pod declares
	ReasonRate                 // the source opens more connections than Config.AdmissionRate; it tries again
)

func (r Reason) String() string {
	return name([]string{"", "no ready endpoint", "no proxy for a strict peer", "plaintext to a strict workload",
		"no proxy to check the policy", "the node could not program the workload",
		"several pods claim the address, or its Service is over its budget",
		"too many connections from addresses outside of the mesh",
		"a request from the node that no probe or hook of the pod declares",
		"more connections a second than one source may open; it tries again"}, int(r))
}

// MarshalText gives the text.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// EventKind tells what happened to a connection.
type EventKind uint8

// Opened: established. Closed: gone, with its figures; also when it never was established. Refused: by this datapath.
const (
	EventOpened EventKind = iota + 1
	EventClosed
	EventRefused
)

func (k EventKind) String() string { return name([]string{"", "opened", "closed", "refused"}, int(k)) }

// MarshalText gives the name.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Event is something that happened to a TCP connection of a local workload. Envoy's own connections and those over
// loopback that nobody redirected make no events.
//
// Of connections that one address is refused at a workload, and of those that a workload is refused, 32 a second make events.
// The others are counted in state.Lost as model.LostRefusals, and with the first event of the same kind in a later second.
//
// A refused inbound connection is seen by its packets. Those to ports of the ephemeral range (32768 and up) are not
// reported, for late packets of finished connections look the same.
type Event struct {
	Kind     EventKind      `json:"kind"`
	Workload string         `json:"workload"` // namespace/name; "" if it is gone already
	NetNS    uint64         `json:"netns"`    // cookie of the workload's network namespace
	Inbound  bool           `json:"inbound"`
	Local    netip.AddrPort `json:"local"`
	Remote   netip.AddrPort `json:"remote"` // who is really at the other end: a backend, or Envoy's loopback port
	// Original is where an outbound connection was meant to go: a Service's address, or equal to Remote.
	Original netip.AddrPort `json:"original"`
	// Backend is the pod that was picked for a Service; it is set for VerdictMTLS, where Remote is loopback.
	Backend     netip.AddrPort `json:"backend,omitzero"`
	Verdict     Verdict        `json:"verdict"`
	Reason      Reason         `json:"reason,omitempty"`
	Sent        uint64         `json:"sent"`     // bytes that the peer acknowledged, SYN and FIN among them (RFC 4898, ThruOctetsAcked)
	Received    uint64         `json:"received"` // bytes
	RTT         time.Duration  `json:"rtt"`      // smoothed
	Retransmits uint32         `json:"retransmits"`
	// More is how many connections of the same address were refused at the workload, or of the workload, since the last event
	// that says so, and made no event.
	More     uint32        `json:"more,omitempty"`
	Duration time.Duration `json:"duration"` // closed events: since it was opened; 0 if nobody read then
	Time     time.Time     `json:"time"`
}

func name(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return "unknown"
	}
	return names[i]
}
