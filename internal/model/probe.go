package model

import "strconv"

// ProbeKind is what the kubelet speaks when it probes a workload or calls one of its hooks.
type ProbeKind string

// With ProbeTCP the kubelet connects and sends nothing.
const (
	ProbeTCP   ProbeKind = "tcp"
	ProbeHTTP  ProbeKind = "http"
	ProbeHTTPS ProbeKind = "https"
	ProbeGRPC  ProbeKind = "grpc"
)

// Probe is a call by the kubelet that a Pod declares: of a probe, or of an HTTP hook.
type Probe struct {
	Port uint16    `json:"port"`
	Kind ProbeKind `json:"kind"`
	// Target is the request target that the kubelet sends with GET (RFC 9112, section 3.2), such as /healthz?full=1, of at
	// most MaxProbeTarget bytes; "" if Kind is not ProbeHTTP.
	Target string `json:"target,omitempty"`
}

// String is such as "8080 GET /healthz", or "8080 tcp".
func (p Probe) String() string {
	what := string(p.Kind)
	if p.Kind == ProbeHTTP {
		what = "GET " + p.Target
	}
	return strconv.Itoa(int(p.Port)) + " " + what
}

// MaxProbeTarget is how long the request target of a probe may be. The kernel compares the request's whole line, of which it
// holds 200 bytes.
const MaxProbeTarget = 180

// MaxProbes is the size of the kernel's tables of the ports that probes and hooks call, and of what they ask for. All pods of a node that
// are strict or have a policy share them, each with an entry for each of its addresses.
const MaxProbes = 1 << 15

// PodCgroup is a cgroup of this node that the kubelet puts pods into, those in the host's network too.
type PodCgroup struct {
	// Path is the path below the cgroup2 mount, such as kubepods.slice.
	Path string `json:"path"`
}

// Key is the row's key.
func (c *PodCgroup) Key() string { return c.Path }
