package model

import (
	"fmt"
	"strings"
)

// Status is what the mesh thinks of one object. It maps onto the Gateway API's status fields.
type Status struct {
	Object     ObjectRef        `json:"object"`
	Generation int64            `json:"generation,omitempty"`
	Conditions []Condition      `json:"conditions,omitempty"` // of the object itself: Gateway, ListenerSet, GatewayClass, policies
	Parents    []ParentStatus   `json:"parents,omitempty"`    // of a route
	Listeners  []ListenerStatus `json:"listeners,omitempty"`  // of a Gateway or a ListenerSet
	Addresses  []string         `json:"addresses,omitempty"`  // of a Gateway
	// AttachedListenerSets counts those of a Gateway that are accepted.
	AttachedListenerSets int `json:"attachedListenerSets,omitempty"`
}

// Key is the object's reference as text.
func (s *Status) Key() string { return s.Object.String() }

// Types of conditions, as the Gateway API names them.
const (
	ConditionAccepted         = "Accepted"
	ConditionResolvedRefs     = "ResolvedRefs"
	ConditionProgrammed       = "Programmed"
	ConditionConflicted       = "Conflicted"
	ConditionPartiallyInvalid = "PartiallyInvalid"
	ConditionOverlappingTLS   = "OverlappingTLSConfig"
	// ConditionInsecureFrontend is on Gateways that ask for certificates of clients and serve those without a valid one.
	ConditionInsecureFrontend = "InsecureFrontendValidationMode"
	// ConditionServiceReady is on Gateways whose Service cannot be made; there is none on others.
	ConditionServiceReady = "weft.io/ServiceReady"
)

// ConditionTypes lists every type of condition that the mesh writes. One of them that an object has and that is not
// wanted any more is removed; a condition of another type is another controller's, and stays.
var ConditionTypes = []string{
	ConditionAccepted, ConditionResolvedRefs, ConditionProgrammed, ConditionConflicted, ConditionPartiallyInvalid,
	ConditionOverlappingTLS, ConditionInsecureFrontend, ConditionServiceReady,
}

// Condition has the types and reasons that the Gateway API defines. Times are added by who writes it to a cluster.
type Condition struct {
	Type    string `json:"type"`
	Status  bool   `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// Fails reports whether a condition says that something of the object does not work.
func (c Condition) Fails() bool {
	switch c.Type {
	case ConditionConflicted, ConditionPartiallyInvalid:
		return c.Status
	case ConditionOverlappingTLS, ConditionInsecureFrontend: // usual where a wildcard stands beside a name; as its author asked
		return false
	}
	return !c.Status
}

// Failure is a condition that fails.
type Failure struct {
	For string // the listener or the parent; "" for the object itself
	Condition
}

// Failures returns the conditions of the object, its listeners and its parents that fail.
func (s *Status) Failures() []Failure {
	var out []Failure
	add := func(of string, all []Condition) {
		for _, c := range all {
			if c.Fails() {
				out = append(out, Failure{of, c})
			}
		}
	}
	add("", s.Conditions)
	for _, l := range s.Listeners {
		add("listener "+l.Name, l.Conditions)
	}
	for i := range s.Parents {
		add(s.Parents[i].String(), s.Parents[i].Conditions)
	}
	return out
}

// ParentStatus is a route's status for one parentRef.
type ParentStatus struct {
	Parent      ObjectRef `json:"parent"`
	SectionName string    `json:"sectionName,omitempty"`
	Port        uint16    `json:"port,omitempty"`
	// Unresolved is true for a parent that does not exist, or that may be another controller's. It is shown to users, and is
	// not written to the API server: "parent references that cannot be resolved by an implementation of this API will not be
	// added to this list" (RouteStatus of the Gateway API).
	Unresolved bool        `json:"unresolved,omitempty"`
	Conditions []Condition `json:"conditions"`
}

// String names the parent, with section and port where the route names them.
func (p *ParentStatus) String() string {
	s := p.Parent.String()
	if p.SectionName != "" {
		s += " section " + p.SectionName
	}
	if p.Port != 0 {
		s += fmt.Sprintf(" port %d", p.Port)
	}
	return s
}

// ListenerStatus is the status of a listener of a Gateway or of a ListenerSet.
type ListenerStatus struct {
	Name           string      `json:"name"`
	SupportedKinds []string    `json:"supportedKinds"`
	AttachedRoutes int         `json:"attachedRoutes"`
	Conditions     []Condition `json:"conditions"`
}

// PortsPrefix begins the Resource of a Rejection that says that a Service, whose key follows, has ports that a node does not send to
// Envoy, because there are too many of the namespace.
const PortsPrefix = "Ports/"

// Rejection is an Envoy's refusal (NACK) of a resource, or this node's to send one.
type Rejection struct {
	Node     string          `json:"node,omitempty"` // of the Envoy; "" for this node
	Resource string          `json:"resource"`       // type/name
	Objects  []ObjectVersion `json:"objects"`        // whose configuration it comes from
	Message  string          `json:"message"`
}

// OverBudget reports whether r says that an object has more than its share.
func (r *Rejection) OverBudget() bool { return strings.HasPrefix(r.Resource, PortsPrefix) }

// CannotBind reports whether r says that Envoy cannot take the address and port of a listener. In a pod's network namespace a
// process of that pod has it.
func (r *Rejection) CannotBind() bool {
	return strings.HasPrefix(r.Resource, "Listener/") && strings.Contains(r.Message, "cannot bind '")
}

// CompareOverBudget orders what Envoy refused before what is over a budget, for those who take the first.
func CompareOverBudget(a, b *Rejection) int {
	switch {
	case a.OverBudget() == b.OverBudget():
		return 0
	case b.OverBudget():
		return -1
	}
	return 1
}

// Key is the resource, after the node if it is another one. A node's name has no "|".
func (r *Rejection) Key() string {
	if r.Node == "" {
		return r.Resource
	}
	return r.Node + "|" + r.Resource
}
