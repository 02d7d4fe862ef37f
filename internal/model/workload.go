package model

import (
	"fmt"
	"net/netip"
	"strings"
)

// MTLSMode says what a workload does about mutual authentication (label weft.io/mtls on a namespace or pod).
type MTLSMode uint8

const (
	// MTLSDisabled means that the workload has no identity; it speaks and is spoken to in the clear.
	MTLSDisabled MTLSMode = iota
	// MTLSPermissive means authenticated with every peer that has an identity, in the clear with others.
	MTLSPermissive
	// MTLSStrict is as permissive outbound; inbound TCP that is not authenticated is refused.
	MTLSStrict
)

func (m MTLSMode) String() string { return [...]string{"disabled", "permissive", "strict"}[m] }

// MarshalText gives the label's value.
func (m MTLSMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads a label's value.
func (m *MTLSMode) UnmarshalText(text []byte) error {
	v, ok := ParseMTLSMode(string(text))
	if !ok {
		return fmt.Errorf("mTLS mode %q is neither disabled, permissive nor strict", text)
	}
	*m = v
	return nil
}

// ParseMTLSMode reads a label's value; "" is MTLSDisabled.
func ParseMTLSMode(s string) (MTLSMode, bool) {
	switch s {
	case "", "disabled":
		return MTLSDisabled, true
	case "permissive":
		return MTLSPermissive, true
	case "strict":
		return MTLSStrict, true
	}
	return MTLSDisabled, false
}

// Identity is a SPIFFE ID (https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md), or "" for none.
type Identity string

// NewIdentity gives spiffe://<trust domain>/ns/<namespace>/sa/<service account>, the form that Istio's ambient mode uses.
func NewIdentity(trustDomain, namespace, serviceAccount string) Identity {
	return Identity("spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + serviceAccount)
}

// Namespace gives the namespace part of an identity made by NewIdentity, or "".
func (i Identity) Namespace() string {
	_, rest, ok := strings.Cut(string(i), "/ns/")
	if !ok {
		return ""
	}
	ns, _, _ := strings.Cut(rest, "/")
	return ns
}

// Workload is a pod.
type Workload struct {
	Namespace      string       `json:"namespace"`
	Name           string       `json:"name"`
	ServiceAccount string       `json:"serviceAccount"`
	Addresses      []netip.Addr `json:"addresses"`
	// Contested are addresses that another pod claims too, where one of them has an identity. Nobody has one there:
	// what must be authenticated is refused in both directions.
	Contested []netip.Addr      `json:"contested,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	// Owner made the pod; it is zero if nothing did.
	Owner Owner    `json:"owner,omitzero"`
	Node  string   `json:"node,omitempty"`
	MTLS  MTLSMode `json:"mtls"`
	// Identity is "" when MTLS is disabled.
	Identity Identity `json:"identity,omitempty"`
	// Local is true when the pod runs on this node and takes part in the mesh; NetNS is then its network
	// namespace's path (/run/netns/NAME) and Cgroup its cgroup below the cgroup2 mount, if known.
	Local  bool   `json:"local"`
	NetNS  string `json:"netns,omitempty"`
	Cgroup string `json:"cgroup,omitempty"`
	// Probes are the calls by the kubelet that the Pod declares, if it runs on this node. They are let in in the clear, in
	// strict mode too.
	Probes []Probe `json:"probes,omitempty"`
	// TraceSampling is the percentage of its requests that begin a trace, as its namespace says; nil if that says nothing.
	TraceSampling *float64 `json:"traceSampling,omitempty"`
	// Policy is what AuthorizationPolicies that select the pod allow; nil when none selects it.
	Policy *Policy `json:"policy,omitempty"`
}

// Key is the workload's key in its table.
func (w *Workload) Key() string { return Key(w.Namespace, w.Name) }

// CountedAs returns what the traffic of the pod is counted as: its owner, or the pod itself.
func (w *Workload) CountedAs() Owner { return countedAs(w.Owner, w.Name) }
