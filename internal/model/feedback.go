package model

import (
	"net/netip"
	"time"
)

// What flows back up from the planes. Each type is a row of a table in internal/state, and each table has one writer.

// SubjectKind is a kind of thing that a plane reports on.
type SubjectKind string

// Workloads, services and gateways are rows of the model. A hook is a place in the kernel where the datapath attaches a
// program. What concerns the node as a whole has a row only while something is wrong.
const (
	SubjectWorkload SubjectKind = "workload"
	SubjectService  SubjectKind = "service"
	SubjectGateway  SubjectKind = "gateway"
	SubjectHook     SubjectKind = "hook"
	SubjectNode     SubjectKind = "node"
)

// Subject is what a plane reports on.
type Subject struct {
	Kind SubjectKind `json:"kind"`
	Name string      `json:"name"` // the key of the model's row, or the hook's name
}

// Key is the subject as text: kind/name.
func (s Subject) Key() string { return string(s.Kind) + "/" + s.Name }

// Envoy is this node's Envoy as a subject. It has a row of Accepted while an Envoy is connected and asks for listeners.
var Envoy = Subject{Kind: SubjectNode, Name: "envoy"}

// Accepted is what Envoy has accepted of one subject.
type Accepted struct {
	Subject
	// Revision is that of the model's row from which all that Envoy holds of the subject was built, as
	// state.Table.Revision gives it. It is 0 while Envoy has accepted nothing.
	Revision uint64 `json:"revision"`
	// Error says why Envoy holds nothing newer; "" if it was not refused.
	Error string `json:"error,omitempty"`
}

// Tunnel is the subject of the row in Carried that is there while a weft tunnel is connected.
var Tunnel = Subject{Kind: SubjectNode, Name: "tunnel"}

// Carried is what weft tunnel has taken over of a local workload: its listeners, identity and policy.
type Carried struct {
	Subject
	// Revision is that of the workload's row that is in force there. It is 0 while nothing is.
	Revision uint64 `json:"revision"`
	// Error says why nothing newer is; "" if nothing failed.
	Error string `json:"error,omitempty"`
	// PortTaken is true where Error says that weft tunnel cannot listen on a port in the pod's network namespace: a process of
	// the pod has it, and nobody else suffers.
	PortTaken bool `json:"portTaken,omitempty"`
	// GatewayPort, in the row of Tunnel alone, is where it takes Envoy's connections, those of Gateways and of routed requests: on
	// every address of 127.0.0.0/8, with a header (ProxyOwner and the others). It is 0 if it takes none.
	GatewayPort uint16 `json:"gatewayPort,omitempty"`
	// Process, in the row of Tunnel alone, tells the process that does so from others. It is "" if an earlier version does.
	Process string `json:"process,omitempty"`
}

// Programmed is what the kernel holds of one subject. Services and workloads of this node have a row; workloads of other
// nodes have one only while something is wrong.
type Programmed struct {
	Subject
	// Revision is that of the model's row that the kernel's entries and hooks were written from. It is 0 while nothing
	// was written, and for hooks.
	Revision uint64 `json:"revision"`
	// Error says what failed last, and what is in force meanwhile; "" if nothing did.
	Error string `json:"error,omitempty"`
	// Repairs counts how often a hook was found changed by somebody else and was put right.
	Repairs uint64 `json:"repairs,omitempty"`
}

// Start is the subject of the row in Programmed that is there until everything that was read at the agent's start was
// programmed once.
var Start = Subject{Kind: SubjectNode, Name: "start"}

// MapUsage is how full a map in the kernel is.
type MapUsage struct {
	Name    string `json:"name"`
	Entries int    `json:"entries"`
	Max     int    `json:"max"`
	// Cache is true where entries are made again when they are needed, and a full map drops its oldest ones.
	Cache bool `json:"cache,omitempty"`
}

// Key is the map's name.
func (m *MapUsage) Key() string { return m.Name }

// Full reports whether entries that are needed find no place, or soon will not.
func (m *MapUsage) Full() bool { return !m.Cache && m.Max > 0 && m.Entries*20 >= m.Max*19 }

// Placement says where a pod of this node runs. Only the node knows it.
type Placement struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// UID is the UID by which the kubelet and the container runtime know the pod. It ties the row to this pod, and not to
	// a later one of its name.
	UID string `json:"uid"`
	// NetNS is the path of the pod's network namespace. Device and Inode tell it from a later one at the same path; they
	// are 0 while there is none.
	NetNS  string `json:"netns"`
	Device uint64 `json:"device,omitempty"`
	Inode  uint64 `json:"inode,omitempty"`
	// Cgroup is the pod's cgroup below the cgroup2 mount, "" if it is not known.
	Cgroup string `json:"cgroup,omitempty"`
	// Addresses are those that the CNI result gave, nil if there was none. They hold until the pod's status has one of
	// them: the kubelet reports them after the pod has started, and the pod must be in the mesh by then. Before that, a
	// status may have those of an earlier sandbox, which are another pod's by now.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// ContainerID is that of the sandbox that the CNI plugin reported, "" if the pod was found without it.
	ContainerID string `json:"containerID,omitempty"`
}

// Key is the row's key.
func (p *Placement) Key() string { return PlacementKey(p.Namespace, p.Name, p.UID) }

// PlacementKey is the key of a pod's placement: namespace/name/uid.
func PlacementKey(namespace, name, uid string) string { return Key(namespace, name) + "/" + uid }

// Certified is the state of one identity's certificate on this node.
type Certified struct {
	Identity Identity  `json:"identity"`
	NotAfter time.Time `json:"notAfter,omitzero"` // of the SVID in use; zero if there is none
	RenewAt  time.Time `json:"renewAt,omitzero"`  // when the next one is asked for
	// OverdueAt is when the SVID in use is past two thirds of its life; zero if there is none.
	OverdueAt time.Time `json:"overdueAt,omitzero"`
	Failures  int       `json:"failures,omitempty"` // attempts since the last one that succeeded
	Error     string    `json:"error,omitempty"`    // of the last attempt; "" after one that succeeded
}

// Key is the identity.
func (c *Certified) Key() string { return string(c.Identity) }

// Valid reports whether the identity has an SVID that has not expired.
func (c *Certified) Valid(now time.Time) bool { return c != nil && now.Before(c.NotAfter) }

// Overdue reports whether the SVID in use should have been renewed by now. An expired one is overdue too.
func (c *Certified) Overdue(now time.Time) bool {
	return c != nil && !c.OverdueAt.IsZero() && !now.Before(c.OverdueAt)
}

// Problem says why the identity has no valid SVID; "" if it has one. A nil Certified is one that was not asked for.
func (c *Certified) Problem(now time.Time) string {
	switch {
	case c == nil:
		return "the agent has not asked for it yet"
	case c.Valid(now):
		return ""
	case c.Error != "":
		return c.Error
	}
	return "the agent waits for the CA to sign it"
}

// Sources of connection events that are lost.
const (
	// LostKernelRing: the kernel's ring buffer had no room.
	LostKernelRing = "kernel-ring"
	// LostRefusals: more connections were refused than events are made of, so that nobody can hide those of others.
	LostRefusals = "refused-connections"
	// LostDNS: a workload sent and got more messages of DNS than are reported, or the kernel's ring buffer had no room.
	LostDNS = "dns-messages"
	// LostExchanges: datagrams of exchanges that are not reported, because a workload began too many or the map was full.
	LostExchanges = "udp-datagrams"
	// LostConnections: packets that open connections to Envoy or weft tunnel, of sources that open more than they may. They are
	// sent again.
	LostConnections = "delayed-connections"
	// LostTunnel: flows of weft tunnel that it could not send, because the agent was away for long or took them too slowly, or of
	// which it sent more than the agent takes.
	LostTunnel = "weft-tunnel"
	// LostTunnelMessages: messages of weft tunnel that are over a bound of the agent. One that works sends none.
	LostTunnelMessages = "weft-tunnel-messages"
	// LostAccessLog: entries of Envoy's access log that it dropped because the agent took them too slowly.
	LostAccessLog = "access-log"
	// LostCopies: copies of requests for mirrors that were not sent, because as many as may were under way. They are no flows.
	LostCopies = "mirrored-requests"
)

// LostExport is the source of flows that were observed and did not get to a target of their export: see Export.To.
func LostExport(to string) string { return "flow-export-" + to }

// Lost counts what a source of events dropped because nobody could take it.
type Lost struct {
	Source string `json:"source"` // LostKernelRing and so on, or LostExport's
	Count  uint64 `json:"count"`  // since the agent started
}

// Key is the source.
func (l *Lost) Key() string { return l.Source }

// Targets of the export of flows.
const (
	ExportStdout = "stdout"
	ExportFile   = "file"
	ExportOTLP   = "otlp"
)

// Export is how the export of this node's flows to a target goes.
type Export struct {
	To     string `json:"to"`               // ExportStdout, ExportFile or ExportOTLP
	Target string `json:"target,omitempty"` // the file, or the collector's Service
	// Error says why the target does not take flows, since when; "" if it does.
	Error string    `json:"error,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Key is the target.
func (e *Export) Key() string { return e.To }
