// Package explain says what becomes of a connection or a request: whether it arrives, by which way, by which rule, and what
// would change that. It reads the rows of one snapshot of a node and asks nobody.
//
//	explain.go   question and answer
//	target.go    what a question names: a Service, a pod or a Gateway
//	outbound.go  the way from the source, as the kernel and Envoy choose it
//	route.go     the rule that a request meets
//	arrival.go   what the destination decides
//	advice.go    what would change a refusal
//	scope.go     what a reader of some namespaces may see of an answer
//
// The answer is about the mesh. It does not say whether the application listens, or whether a network policy is in the way.
package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Question asks about a connection from a pod.
type Question struct {
	From string `json:"from"` // namespace/name of a pod
	To   Target `json:"to"`
	// Request is nil if only the connection is asked about. GET / is assumed then if a request decides.
	Request *Request `json:"request,omitempty"`
}

// Request is an HTTP request.
type Request struct {
	Method  string         `json:"method"`
	Path    string         `json:"path"`           // with the query
	Host    string         `json:"host,omitempty"` // "" is the name of the destination
	Headers []model.Header `json:"headers,omitempty"`
}

// Verdict is what becomes of a connection or request.
type Verdict string

// The verdicts.
const (
	Allowed Verdict = "allowed"
	// Refused by a mode, a policy, or because an end cannot be authenticated.
	Refused Verdict = "refused"
	// Failing is allowed by all and does not work: no endpoint, no rule for the request, no certificate.
	Failing Verdict = "failing"
	// Partly works: it depends on the backend or endpoint that is picked.
	Partly Verdict = "partly"
)

// Answer says what becomes of a connection or request.
type Answer struct {
	From string `json:"from"`
	// Node is the source's. Local is true if it is the one that answered, which knows best.
	Node    string  `json:"node,omitempty"`
	Local   bool    `json:"local,omitempty"`
	To      string  `json:"to"` // Service/namespace/name:port, or Pod or Gateway
	Verdict Verdict `json:"verdict"`
	Why     string  `json:"why"`
	// Request is what was asked about, or assumed; nil if no request decides.
	Request *Request `json:"request,omitempty"`
	Assumed bool     `json:"assumed,omitempty"`
	// Status is what the mesh itself answers to the request, 0 if it forwards it.
	Status  int      `json:"status,omitempty"`
	Route   *Route   `json:"route,omitempty"`
	Ends    []End    `json:"ends,omitempty"`
	Changes []string `json:"changes,omitempty"` // what would change the answer
	Notes   []string `json:"notes,omitempty"`   // what the answer does not take into account

	// decidedIn are the namespaces of what decides before an endpoint is picked: a route, or the listener of a ListenerSet.
	decidedIn []string
}

// Way is how a connection leaves the source.
type Way string

// The ways.
const (
	ByKernel      Way = "kernel"            // TCP in the clear, untouched after connect()
	ByEnvoy       Way = "Envoy"             // requests, in the clear behind the source's Envoy
	ByEnvoyHBONE  Way = "Envoy+HBONE"       // requests, over mTLS between the two Envoys
	ByEnvoyTunnel Way = "Envoy+weft tunnel" // requests, from the source's Envoy over mTLS between the two weft tunnels
	ByHBONE       Way = "HBONE"             // bytes, over mTLS between the two Envoys
	ByTunnel      Way = "weft tunnel"       // bytes, over mTLS between the two weft tunnels
)

// Authenticated reports whether both ends prove who they are, and the bytes are encrypted.
func (w Way) Authenticated() bool { return w == ByEnvoyHBONE || w == ByHBONE || w.tunnelled() }

// tunnelled reports whether weft tunnel decides at the destination.
func (w Way) tunnelled() bool { return w == ByTunnel || w == ByEnvoyTunnel }

// requests reports whether Envoy sends requests that way.
func (w Way) requests() bool { return w == ByEnvoy || w == ByEnvoyHBONE || w == ByEnvoyTunnel }

// End is an endpoint that may be picked, and what becomes of the connection there.
type End struct {
	Service  string         `json:"service,omitempty"` // namespace/name:port of the backend
	Share    float64        `json:"share"`             // of the connections or requests: 0 to 1
	Address  netip.AddrPort `json:"address,omitzero"`
	Workload string         `json:"workload,omitempty"`
	Node     string         `json:"node,omitempty"`
	// Local ends are on the node that answered.
	Local bool `json:"local,omitempty"`
	Way   Way  `json:"way,omitempty"`
	// Client is the identity that the source proves, Identity the one that the endpoint must prove.
	Client   model.Identity `json:"client,omitempty"`
	Identity model.Identity `json:"identity,omitempty"`
	Decision
}

// Decision is what becomes of a connection at one end.
type Decision struct {
	Verdict Verdict `json:"verdict"`
	By      string  `json:"by,omitempty"` // the mode, policy or rule that decides
	Why     string  `json:"why,omitempty"`
	// Status is what a request is answered with where it is not let through; 0 if the application answers.
	Status  int      `json:"status,omitempty"`
	Changes []string `json:"changes,omitempty"`
	Notes   []string `json:"notes,omitempty"`
	// ByRequest is true if the request decided, and not only the connection.
	ByRequest bool `json:"byRequest,omitempty"`
	// AtSource is true if the connection does not leave the source.
	AtSource bool `json:"atSource,omitempty"`
}

// Node is what is known of the node that answers.
type Node struct {
	State    *state.State
	Snapshot *state.Snapshot
	Now      time.Time // certificates are judged by it
	Tunnel   bool      // bytes go by weft tunnel
}

// ErrUnknown means that the question names something that the node does not know.
var ErrUnknown = errors.New("not known to the node")

// Explain answers a question. It fails with ErrUnknown if an end is not known, and if the question is not complete.
func (n *Node) Explain(q Question) (*Answer, error) {
	source, ok := n.State.Workloads.Get(n.Snapshot, q.From)
	if !ok {
		return nil, fmt.Errorf("Pod %s is %w: it does not exist, it has ended, or it uses the host's network", q.From, ErrUnknown)
	}
	to, err := n.resolve(q.To)
	if err != nil {
		return nil, err
	}
	e := &explanation{Node: n, source: source, to: to, request: q.Request}
	e.answer = &Answer{From: q.From, Node: source.Node, Local: source.Local, To: to.String()}
	if e.request == nil {
		e.request, e.answer.Assumed = &Request{}, true
	}
	e.request = e.request.complete(to)
	for _, text := range e.Behind(source) {
		e.note("%s", text)
	}
	e.connect()
	e.conclude()
	return e.answer, nil
}

// explanation is an answer in the making.
type explanation struct {
	*Node
	source  *model.Workload
	to      *destination
	request *Request
	used    bool // the request decided
	answer  *Answer
}

func (e *explanation) note(format string, args ...any) {
	e.answer.Notes = appendNew(e.answer.Notes, fmt.Sprintf(format, args...))
}

// decides records that an object of a namespace decides; "" is none of a user's.
func (e *explanation) decides(namespace string) {
	if namespace != "" {
		e.answer.decidedIn = appendNew(e.answer.decidedIn, namespace)
	}
}

// end answers without an endpoint.
func (e *explanation) end(v Verdict, status int, format string, args ...any) {
	e.answer.Verdict, e.answer.Status, e.answer.Why = v, status, fmt.Sprintf(format, args...)
}

// conclude gathers what the ends say.
func (e *explanation) conclude() {
	a := e.answer
	count := map[Verdict]int{}
	for i := range a.Ends {
		d := &a.Ends[i].Decision
		count[d.Verdict]++
		e.used = e.used || d.ByRequest
	}
	if e.used {
		a.Request = e.request
	} else {
		a.Assumed = false
	}
	if a.Verdict != "" {
		return
	}
	a.Judge()
}

// Arrival is the question to the node of an endpoint, nil if nothing arrives there.
func (a *Answer) Arrival(end *End) *Arrival {
	if end.Workload == "" || end.AtSource {
		return nil
	}
	return &Arrival{From: a.From, To: end.Workload, Port: end.Address.Port(), Way: end.Way, Peer: end.Client, Request: a.Request}
}

// Judge sets the verdict, its reason and what would change it from the ends. Call it again if an end changes.
func (a *Answer) Judge() {
	if len(a.Ends) == 0 {
		return
	}
	first := a.Ends[0]
	a.Verdict, a.Why, a.Changes = first.Verdict, first.Why, nil
	for _, end := range a.Ends {
		if end.Verdict != first.Verdict {
			a.Verdict, a.Why = Partly, "it depends on the endpoint that is picked"
		}
		for _, c := range end.Changes {
			a.Changes = appendNew(a.Changes, c)
		}
		for _, note := range end.Notes {
			a.Notes = appendNew(a.Notes, note)
		}
	}
}

func appendNew(list []string, text string) []string {
	for _, s := range list {
		if s == text {
			return list
		}
	}
	return append(list, text)
}
