// Package observe keeps what happened on the wire: flows, one for each connection or request that ended.
//
// Whoever sees an event (the kernel's ring buffer, Envoy's access log) turns it into a Flow and adds it to a Store.
// A Resolver says which workload or service an address is. The package knows no plane; it reads package state only.
package observe

import (
	"net/netip"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// Verdict is what became of a connection or request.
type Verdict string

// The verdicts.
const (
	// Forwarded reached its destination.
	Forwarded Verdict = "forwarded"
	// Refused was not let through: a strict destination, a policy, a missing identity. Flow.Reason says which.
	Refused Verdict = "refused"
	// Failed was let through but broke: nobody listens, a timeout, a reset.
	Failed Verdict = "failed"
)

// ParseVerdict reads a verdict's name.
func ParseVerdict(s string) (Verdict, bool) {
	switch v := Verdict(s); v {
	case Forwarded, Refused, Failed:
		return v, true
	}
	return "", false
}

// Layer is how far up the mesh looked.
type Layer string

// The layers.
const (
	// L4 stayed in the kernel.
	L4 Layer = "L4"
	// L7 went through Envoy as requests, or was read as DNS.
	L7 Layer = "L7"
	// MTLS went through Envoy as bytes, authenticated on both ends.
	MTLS Layer = "mTLS"
)

// ParseLayer reads a layer's name, in any case.
func ParseLayer(s string) (Layer, bool) {
	for _, l := range []Layer{L4, L7, MTLS} {
		if strings.EqualFold(s, string(l)) {
			return l, true
		}
	}
	return "", false
}

// Side is an end of a flow.
type Side string

// The sides.
const (
	AtSource      Side = "source"
	AtDestination Side = "destination"
)

// Peer is one end of a flow. Fields that are not known are empty.
type Peer struct {
	Address  netip.AddrPort `json:"address,omitzero"`
	Workload string         `json:"workload,omitempty"` // namespace/name of the pod
	// Service is the namespace/name of the service that was asked for.
	Service string `json:"service,omitempty"`
	// Identity is the one that was proven, "" where nothing was.
	Identity model.Identity `json:"identity,omitempty"`
	// Labels are those that the pod had then, shared with its row: they must not be changed.
	Labels map[string]string `json:"labels,omitempty"`
}

// Namespace is the workload's, else the service's, else the identity's, else "".
func (p Peer) Namespace() string {
	for _, key := range []string{p.Workload, p.Service} {
		if key != "" {
			ns, _ := model.SplitKey(key)
			return ns
		}
	}
	return p.Identity.Namespace()
}

// String names the peer as exactly as is known: workload, service or address, with the port.
func (p Peer) String() string {
	name := p.Workload
	if name == "" {
		name = p.Service
	}
	if name == "" {
		if !p.Address.IsValid() {
			return "unknown"
		}
		return p.Address.String()
	}
	if p.Address.Port() == 0 {
		return name
	}
	return name + ":" + portText(p.Address.Port())
}

// Request is what is known of an HTTP request.
type Request struct {
	Method string `json:"method"`
	Host   string `json:"host"`
	Path   string `json:"path"` // without the query, which may hold secrets
	Status int    `json:"status"`
	// Backend is the namespace/name of the pod that a route sent it to, "" if it is not known.
	Backend string `json:"backend,omitempty"`
}

// Flow is a connection or a request that ended, or that was refused; or an exchange of datagrams, or a question of DNS.
type Flow struct {
	// Seq counts the flows of a Store from 1 without gaps; Add sets it.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"` // of its end, or of its start if Open
	// Open is the report of an authenticated connection at its start; another comes at its end.
	Open        bool           `json:"open,omitempty"`
	Protocol    model.Protocol `json:"protocol"`
	Source      Peer           `json:"source"`
	Destination Peer           `json:"destination"`
	// SeenAt is the end that reports it: where both are in the mesh, each end does.
	SeenAt  Side    `json:"seenAt,omitempty"`
	Verdict Verdict `json:"verdict"`
	Layer   Layer   `json:"layer"`
	// Reason says why it was refused or failed, in words.
	Reason string `json:"reason,omitempty"`
	// Policies select the destination, and none of them allows it: namespace/name, sorted. Nil unless a policy refused it.
	Policies []string `json:"policies,omitempty"`
	// AllowedBy is the rule of a policy of the destination that let it in, AuthorizationPolicy/namespace/name/number. "" if no policy
	// selects the destination, or its end did not report it.
	AllowedBy string `json:"allowedBy,omitempty"`
	// Route is what chose the backend: of a request the rule, as Kind/namespace/name/number or with the rule's name behind it; of a
	// connection by its server name the TLSRoute, as Kind/namespace/name. "" if no route did.
	Route       string        `json:"route,omitempty"`
	Sent        uint64        `json:"sent"`     // bytes from source to destination
	Received    uint64        `json:"received"` // bytes from destination to source
	Duration    time.Duration `json:"duration,omitempty"`
	RTT         time.Duration `json:"rtt,omitempty"` // smoothed, as the kernel keeps it
	Retransmits uint32        `json:"retransmits,omitempty"`
	// More counts refused connections like this one that are no flows, because there were too many in a second, or requests that
	// failed like this one while no agent answered. Of refused connections, they are of the same
	// address to the same workload, or of the same workload. Their ports and reasons may differ.
	More uint64 `json:"more,omitempty"`
	// Stream identifies a connection by HBONE at both ends; several such connections share one TCP connection.
	Stream string   `json:"stream,omitempty"`
	HTTP   *Request `json:"http,omitempty"` // L7 only
	DNS    *DNS     `json:"dns,omitempty"`  // L7 only
}
