package describe

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Problem is what is wrong with an object, or with what it needs.
type Problem struct {
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"`
}

// maxProblems bounds a description: who mends the first will see the rest.
const maxProblems = 50

func (d *description) problem(what, remedy string) {
	p := Problem{what, remedy}
	if len(d.out.Problems) < maxProblems && !slices.Contains(d.out.Problems, p) {
		d.out.Problems = append(d.out.Problems, p)
	}
}

// failures takes over the conditions of the object that fail.
func (d *description) failures() {
	if d.out.Status == nil {
		return
	}
	for _, f := range d.out.Status.Failures() {
		what := f.Type + ": " + f.Reason
		if f.Message != "" {
			what += ": " + f.Message
		}
		if f.For != "" {
			what = f.For + ": " + what
		}
		d.problem(what, remedies[f.Reason])
	}
}

// remedies by the reason of a condition, as the Gateway API names it.
var remedies = map[string]string{
	"AddressNotAssigned":          "make an AddressPool with addresses that lead to the nodes, or name an address in spec.addresses",
	"AddressNotUsable":            "name an address of an AddressPool that no other Gateway or Service has",
	"BackendNotFound":             "make the Service, or correct the name, namespace or port of the backendRef",
	"Conflicted":                  "one object of each kind holds for a target: remove this one, or the older one",
	"HostnameConflict":            "give the listener a hostname that no other listener of the port has",
	"InvalidCACertificateRef":     "name a ConfigMap with PEM certificates under ca.crt",
	"InvalidCACertificateKind":    "name a ConfigMap",
	"InvalidCertificateRef":       "name a Secret of type kubernetes.io/tls with a certificate and its key",
	"InvalidClientCertificateRef": "name a Secret of type kubernetes.io/tls with a certificate and its key",
	"InvalidKind":                 "name a kind that is supported there: weft analyze says which",
	"InvalidRouteKinds":           "name kinds of routes that the listener's protocol takes",
	"ListenersNotValid":           "see the conditions of the listeners",
	"NoMatchingListenerHostname":  "give the route a hostname that the listener has, or the listener that of the route",
	"NoMatchingParent":            "correct sectionName or port of the parentRef: the parent has no such listener",
	"NotAllowed":                  "the parent's allowedListeners must allow the namespace",
	"NotAllowedByListeners":       "the listener's allowedRoutes must allow the route's namespace and kind",
	"ParentNotAccepted":           "see the conditions of the parent",
	"ParentNotProgrammed":         "see the conditions of the parent",
	"PortUnavailable":             "choose another port: the mesh or another listener has this one",
	"ProtocolConflict":            "listeners of a port must speak protocols that can be told apart",
	"RefNotPermitted":             "add a ReferenceGrant in the namespace of what is named",
	"TargetNotFound":              "make the target, or correct the targetRef",
	"TooManyListeners":            "remove listeners: see docs/security.md for the bound",
	"UnsupportedProtocol":         "use HTTP, HTTPS, TLS, TCP or UDP",
}

// applied says what the planes could not take over of a row of the model.
func (d *description) applied(subject model.Subject) {
	if row, ok := d.State.Programmed.Get(d.Snapshot, subject.Key()); ok && row.Error != "" {
		d.problem("the kernel of this node does not hold all of it: "+row.Error, "see the node's faults (weft status)")
	}
	if row, ok := d.State.Accepted.Get(d.Snapshot, subject.Key()); ok && row.Error != "" {
		why := row.Error
		if d.Sees != nil && subject.Kind == model.SubjectGateway { // it may be about ListenerSets and routes of others
			why = "it refused something of it"
		}
		d.problem("Envoy of this node does not hold the newest of it: "+why, "correct what Envoy names; until then the last good version is in force")
	}
}

// rejections says what Envoy refused of the object.
func (d *description) rejections(ref model.ObjectRef) {
	for r := range d.State.Rejections.By(d.Snapshot, state.ByObject, ref.String()) {
		if slices.ContainsFunc(r.Objects, func(o model.ObjectVersion) bool { return !d.sees(o.Namespace) }) {
			d.problem("Envoy refused what was made of it and of objects of other namespaces", "ask who may see all namespaces; until it is corrected the last good version is in force")
			continue
		}
		where := ""
		if r.Node != "" {
			where = " of node " + r.Node
		}
		if r.OverBudget() {
			d.problem(fmt.Sprintf("OverBudget at Envoy%s: %s", where, r.Message), "call fewer ports of the namespace's Services from one node")
			continue
		}
		hint := "correct what Envoy names; until then the last good version is in force"
		if ref.Kind == KindPod && r.CannotBind() {
			hint = freePort
		}
		d.problem(fmt.Sprintf("Envoy%s refused %s: %s", where, r.Resource, r.Message), hint)
	}
}

// freePort is the hint for a pod that has a port of the mesh.
const freePort = "have the pod's processes listen on other ports: 15001 to 15009 are the mesh's; then delete the pod, so that it is made anew"

// ruleProblems looks at the rules that were found.
func (d *description) ruleProblems() {
	for i := range d.out.Rules {
		r := &d.out.Rules[i]
		name := fmt.Sprintf("%s[%d]", r.Rule.Route, r.Rule.Index)
		if r.LosesTo != "" {
			d.problem(fmt.Sprintf("rule %s gets no request at %s: %s comes first and takes them all", name, r.Table, r.LosesTo),
				"make its match more specific, or remove the other; of equal matches the older route wins, then the first by name")
		}
		for b := range r.Rule.AllBackends() {
			d.backendProblem("rule "+name, d.backend(*b, d.serving(*b, model.TCP)))
		}
	}
}

func (d *description) streamProblems(all []Stream) {
	for _, s := range all {
		for _, b := range s.Backends {
			d.backendProblem(s.Route.String(), b)
		}
	}
}

// backendProblem looks at what serves a backend. One that is not valid has a condition.
func (d *description) backendProblem(of string, b Backend) {
	if b.Weight > 0 && !b.Invalid && !b.Hidden && b.Endpoints == 0 {
		d.problem(fmt.Sprintf("%s: backend %s/%s:%d has no ready endpoint", of, b.Namespace, b.Name, b.Port),
			"a pod that the Service selects must become ready (weft describe service)")
	}
}

func sortedKeys(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }

// firsts names some of a list, and how many more there are.
func firsts(list []string) string {
	const most = 3
	text := strings.Join(list[:min(len(list), most)], ", ")
	if len(list) > most {
		text += fmt.Sprintf(" and %d more", len(list)-most)
	}
	return text
}
