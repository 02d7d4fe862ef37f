// Package api is what the agent answers on its socket, <run>/agent.sock: the types, the server's handler and the
// client that the weft commands use. It is HTTP with JSON; private keys never pass it.
//
//	GET /v1/status                                  Status
//	GET /v1/config/<what>?namespace=NS&name=NAME    a list; what is one of the constants below
//	GET /v1/explain?q=JSON                          explain.Answer; q is an explain.Question
//	GET /v1/explain/arrival?q=JSON                  explain.Decision; q is an explain.Arrival
//	GET /v1/describe?q=JSON                         describe.Description; q is a describe.Question
//	GET /v1/envoy/<what>                            what Envoy's admin answers; what is dump or clusters
//	GET /v1/envoy/log-level                         Envoy's loggers and their levels
//	POST /v1/envoy/log-level?logger=NAME&level=L    the same, after a change; without a logger of all
//	GET /v1/map                                     servicemap.Part
//	GET /v1/map/flows?fromName=NAME&...             []observe.Flow, of a servicemap.Pair
//	GET /v1/flows?follow=true&limit=N&...           observe.Event, one a line (see FlowQuery)
package api

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
	"github.com/weft-mesh/weft/internal/state"
)

// SocketName is the socket's name in the run directory.
const SocketName = "agent.sock"

// What /v1/config/<what> knows, with the type of the list's items.
const (
	Services     = "services"     // model.Service
	Routes       = "routes"       // model.RouteTable
	AllEndpoints = "endpoints"    // model.Endpoints
	Identities   = "identities"   // Identity
	Certificates = "certificates" // Certificate
	Policies     = "policies"     // WorkloadPolicy
	Gateways     = "gateways"     // model.Gateway
	Statuses     = "status"       // model.Status
)

// Node is what the handler tells about: rows, and what never changes. Nothing here asks a plane or takes its lock; Envoy is
// another process.
type Node struct {
	State *state.State
	// Objects have the objects and what was wrong with them. Dir is where they come from, "" if nobody asks; Loaded is
	// closed when they were read once.
	Objects *kube.Objects
	Dir     string
	Loaded  <-chan struct{}
	// Flows is nil where flows are not kept. They are a stream, not a state: a row would be written for each connection.
	Flows *observe.Store
	// Map is nil where traffic is not counted.
	Map *servicemap.Local
	// Envoy is nil where no Envoy is asked. Only what a row does not hold is asked of it.
	Envoy Envoy
	// Agent tells about the agent itself.
	Agent Agent
	// Tunnel is true if authenticated bytes are to go by weft tunnel.
	Tunnel bool
}

// Agent is the process that answers.
type Agent struct {
	Version     string    `json:"version"`
	Envoy       string    `json:"envoy"` // the version of Envoy that it is made for
	Node        string    `json:"node"`
	PID         int       `json:"pid"`
	Started     time.Time `json:"started"`
	TrustDomain string    `json:"trustDomain"`
}

// Folder is the folder of manifests.
type Folder struct {
	Dir      string    `json:"dir"`
	Loaded   bool      `json:"loaded"`
	Objects  int       `json:"objects"`
	Problems []Problem `json:"problems"`
}

// Problem is something in a manifest that was not taken. Its fields are those of kube.Problem.
type Problem struct {
	File   string          `json:"file"` // below Folder.Dir
	Line   int             `json:"line,omitempty"`
	Object model.ObjectRef `json:"object,omitzero"` // empty where the text does not tell
	Reason string          `json:"reason"`
}

// String names the object, or the place in the folder where the text does not tell, and the reason.
func (p Problem) String() string {
	where := p.Object.String()
	switch {
	case p.Object.Kind != "":
	case p.Line > 0:
		where = fmt.Sprintf("%s:%d", p.File, p.Line)
	default:
		where = p.File
	}
	return where + ": " + p.Reason
}

// OfNode reports whether nobody's object is the problem, but that the node cannot read: a kind, a folder or a file.
func (p Problem) OfNode() bool { return p.Object.Name == "" && p.Line == 0 }

// Proxy is the node's Envoy.
type Proxy struct {
	Version  string `json:"version,omitempty"`
	State    string `json:"state"` // Envoy's: LIVE, DRAINING, PRE_INITIALIZING, INITIALIZING; "" when it does not answer
	PID      int    `json:"pid,omitempty"`
	Epoch    int    `json:"epoch"` // hot restarts of this line of Envoys
	Restarts int    `json:"restarts"`
	// Overloads are the restarts in place of an Envoy that stayed in overload.
	Overloads int       `json:"overloads,omitempty"`
	Started   time.Time `json:"started,omitzero"`
	// Connected is true when Envoy holds a stream to the agent's xDS server.
	Connected bool `json:"connected"`
	// Overload names the active actions of Envoy's overload manager, as "stop_accepting_requests": it is short of memory; or
	// model.OverloadConnections. OverloadActions are all that it has.
	Overload        []string `json:"overload,omitempty"`
	OverloadActions []string `json:"overloadActions,omitempty"`
	// Unanswered are the requests that failed last because no agent answered; nil if none did.
	Unanswered *model.Unanswered `json:"unanswered,omitempty"`
	// Tunnel says what keeps weft tunnel from carrying bytes; "" if nothing does, or if this node does not use it.
	Tunnel string `json:"tunnel,omitempty"`
	Error  string `json:"error,omitempty"` // the last one, of weft proxy or of the way to it
}

// Status is a node's health.
type Status struct {
	Healthy    bool               `json:"healthy"`
	Faults     []string           `json:"faults,omitempty"` // of the node: why it is not healthy, in words
	Synced     bool               `json:"synced"`
	Agent      Agent              `json:"agent"`
	Folder     *Folder            `json:"folder,omitempty"`
	CNI        *model.CNI         `json:"cni,omitempty"`
	Datapath   Datapath           `json:"datapath"`
	Proxy      Proxy              `json:"proxy"`
	Workloads  []Workload         `json:"workloads"` // of this node
	Identities []Identity         `json:"identities"`
	Gateways   []*model.Gateway   `json:"gateways"` // those too that are not served, without ports
	Rejections []*model.Rejection `json:"rejections"`
	// Objects counts those that have a status, Troubles is what does not work of them.
	Objects  int       `json:"objects"`
	Troubles []Trouble `json:"troubles,omitempty"`
	// Lost counts what sources of events dropped since the agent started: connections that weft observe does not show.
	Lost []*model.Lost `json:"lost,omitempty"`
	// Exports are where this node's flows are sent.
	Exports []*model.Export `json:"exports,omitempty"`
}

// Trouble is a condition of an object that says that something of it does not work.
type Trouble struct {
	Object  model.ObjectRef `json:"object"`
	For     string          `json:"for,omitempty"` // the listener or parent; "" for the object itself
	Type    string          `json:"type"`
	Reason  string          `json:"reason"`
	Message string          `json:"message,omitempty"`
}

// Workload is a pod of this node.
type Workload struct {
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
	Addresses []netip.Addr   `json:"addresses"`
	MTLS      model.MTLSMode `json:"mtls"`
	Identity  model.Identity `json:"identity,omitempty"`
	Policies  []string       `json:"policies,omitempty"`
}

// Identity is an identity that workloads or Gateways have.
type Identity struct {
	Identity model.Identity `json:"identity"`
	// Workloads are namespace/name of the pods; Gateways likewise.
	Workloads []string `json:"workloads,omitempty"`
	Gateways  []string `json:"gateways,omitempty"`
	// Local is true when a pod or Gateway of this node has it, so that this node must hold an SVID for it.
	Local bool `json:"local"`
	// SVID is nil where this node holds none.
	SVID *Certificate `json:"svid,omitempty"`
	// Trouble says why this node has no valid SVID, or why it does not renew the one that it has. Only a Status has it.
	Trouble string `json:"trouble,omitempty"`
	// Overdue is true where the SVID should have been renewed by now. Failures counts attempts since the last that
	// succeeded. Only a Status has them.
	Overdue  bool `json:"overdue,omitempty"`
	Failures int  `json:"failures,omitempty"`
}

// Certificate is a certificate without its key.
type Certificate struct {
	// Kind is SVID, Bundle or Secret; Name is the SPIFFE ID, the trust domain or the Secret's namespace/name.
	Kind      string    `json:"kind"`
	Name      string    `json:"name"`
	Names     []string  `json:"names,omitempty"` // subject alternative names
	Serial    string    `json:"serial,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	Error     string    `json:"error,omitempty"` // why it cannot be read
}

// WorkloadPolicy is what the AuthorizationPolicies that select a workload allow together.
type WorkloadPolicy struct {
	Workload string             `json:"workload"` // namespace/name
	Local    bool               `json:"local"`
	Policies []string           `json:"policies"`
	Rules    []model.PolicyRule `json:"rules"`
}
