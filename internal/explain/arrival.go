package explain

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
)

// Arrival is a connection at its destination.
type Arrival struct {
	From string         `json:"from"` // namespace/name of the source pod
	To   string         `json:"to"`   // likewise; "" if no pod is known there
	Port uint16         `json:"port"`
	Way  Way            `json:"way"`
	Peer model.Identity `json:"peer,omitempty"` // that the client proves
	// Request decides where a policy looks at requests; nil is GET /.
	Request *Request `json:"request,omitempty"`
}

// Arrive says what the destination's mode and policies decide. The destination's node knows best: it knows what its kernel
// and its Envoy have taken over.
func (n *Node) Arrive(a Arrival) Decision {
	w, ok := n.State.Workloads.Get(n.Snapshot, a.To)
	if !ok {
		return Decision{Verdict: Allowed, By: "nothing of the mesh", Why: "the endpoint is no pod that the mesh knows"}
	}
	if a.Request == nil {
		a.Request = &Request{Method: http.MethodGet, Path: "/"}
	}
	var d Decision
	if a.Way.Authenticated() {
		d = n.authenticated(&a, w)
	} else {
		d = n.clear(&a, w)
	}
	d.Notes = n.Behind(w)
	return d
}

// clear decides on a connection that proves no identity, in the order of the kernel's program for inbound connections.
func (n *Node) clear(a *Arrival, w *model.Workload) Decision {
	switch {
	case a.From == a.To:
		return Decision{Verdict: Allowed, By: "nothing", Why: "the pod calls itself, and nothing restricts that"}
	case w.Identity != "" && (a.Port == model.PortHBONE || a.Port == model.PortTunnel):
		return ownPort(a.Port)
	case w.MTLS == model.MTLSStrict:
		d := refusedBy("mTLS mode strict of Pod "+w.Key(), "Pod %s is strict, and the connection proves no identity", w.Key())
		d.Changes = identityAdvice(n.pod(a.From), a.From, w)
		return d
	case w.Policy == nil:
		return Decision{
			Verdict: Allowed, By: fmt.Sprintf("mTLS mode %s of Pod %s; no AuthorizationPolicy selects it", w.MTLS, w.Key()),
			Why: "it goes in the clear: " + clearReason(a, w), Changes: encryptAdvice(n.pod(a.From), a.From, w),
		}
	case model.IsOwnPort(a.Port):
		return ownPort(a.Port)
	case !n.EnvoyServes(w):
		d := refusedBy(policyNames(w.Policy), "a policy selects Pod %s, and Envoy does not listen there to check it", w.Key())
		d.Changes = []string{"see the faults of the destination's node (weft status)"}
		return d
	case w.Policy.InspectsPort(a.Port):
		return request(a, w)
	}
	return connection(a, w)
}

// authenticated decides on a connection by mTLS.
func (n *Node) authenticated(a *Arrival, w *model.Workload) Decision {
	serves := n.EnvoyServes(w)
	if a.Way.tunnelled() {
		serves = n.TunnelServes(w)
	}
	switch why := n.Certificate(w.Identity, w.Local); {
	case model.IsOwnPort(a.Port):
		return ownPort(a.Port)
	case why != "":
		return Decision{Verdict: Failing, Why: why, Changes: []string{"see the faults of the destination's node (weft status)"}}
	case !serves:
		return Decision{
			Verdict: Failing, Why: fmt.Sprintf("nothing takes connections by %s for Pod %s", a.Way, w.Key()),
			Changes: []string{"see the faults of the destination's node (weft status)"},
		}
	case w.Policy == nil:
		return Decision{Verdict: Allowed, By: fmt.Sprintf("mTLS mode %s of Pod %s; no AuthorizationPolicy selects it", w.MTLS, w.Key())}
	}
	if d := connection(a, w); d.Verdict != Allowed || !w.Policy.InspectsPort(a.Port) {
		return d
	}
	if a.Way.tunnelled() {
		return refusedBy(policyNames(w.Policy), "a rule looks at the requests on port %d, and weft tunnel carries bytes", a.Port)
	}
	return request(a, w)
}

// connection decides by what is known before bytes are read.
func connection(a *Arrival, w *model.Workload) Decision {
	if w.Policy.Admit(a.Peer, a.Port) == model.Denied {
		d := refusedBy(policyNames(w.Policy), "no rule allows %s on port %d", who(a.Peer), a.Port)
		d.Changes = policyAdvice(a, w)
		return d
	}
	return allowedBy(w.Policy, w.Policy.AdmittingRule(a.Peer, a.Port))
}

// request decides by the request.
func request(a *Arrival, w *model.Workload) Decision {
	path, _ := a.Request.split()
	if w.Policy.ComparesPaths() {
		if low := strings.ToLower(path); strings.Contains(low, "%2f") || strings.Contains(low, "%5c") {
			d := refusedBy(policyNames(w.Policy), "a rule compares paths, and the path has an escaped slash")
			d.Status, d.ByRequest = 400, true
			return d
		}
		path = mergeSlashes(path)
	}
	if i := w.Policy.AllowingRule(a.Peer, a.Port, a.Request.Method, path); i >= 0 {
		d := allowedBy(w.Policy, i)
		d.ByRequest = true
		return d
	}
	d := refusedBy(policyNames(w.Policy), "no rule allows %s %s of %s on port %d", a.Request.Method, path, who(a.Peer), a.Port)
	d.Status, d.ByRequest, d.Changes = 403, true, policyAdvice(a, w)
	return d
}

func mergeSlashes(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

func refusedBy(by, format string, args ...any) Decision {
	return Decision{Verdict: Refused, By: by, Why: fmt.Sprintf(format, args...)}
}

func allowedBy(p *model.Policy, rule int) Decision {
	return Decision{Verdict: Allowed, By: policyNames(p) + ": " + ruleText(&p.Rules[rule])}
}

func ownPort(port uint16) Decision {
	return refusedBy("the mesh", "port %d is one of the mesh's own in each pod", port)
}

// pod returns a pod's row; nil if there is none.
func (n *Node) pod(key string) *model.Workload {
	w, _ := n.State.Workloads.Get(n.Snapshot, key)
	return w
}

// Behind says what has not taken over the newest row of a pod of this node.
func (n *Node) Behind(w *model.Workload) []string {
	if !w.Local {
		return nil
	}
	_, revision, _ := n.State.Workloads.Revision(n.Snapshot, w.Key())
	subject := workloadSubject(w)
	var out []string
	check := func(who string, applied uint64, failure string) {
		if applied >= revision {
			return
		}
		text := fmt.Sprintf("%s has not taken over the newest mode and policy of Pod %s", who, w.Key())
		if failure != "" {
			text += ": " + failure
		}
		out = append(out, text)
	}
	var programmed model.Programmed
	if row, ok := n.State.Programmed.Get(n.Snapshot, subject.Key()); ok {
		programmed = *row
	}
	check("the kernel", programmed.Revision, programmed.Error)
	var accepted model.Accepted
	if row, ok := n.State.Accepted.Get(n.Snapshot, subject.Key()); ok {
		accepted = *row
	}
	check("Envoy", accepted.Revision, accepted.Error)
	if n.Tunnel && w.Identity != "" {
		var carried model.Carried
		if row, ok := n.State.Carried.Get(n.Snapshot, subject.Key()); ok {
			carried = *row
		}
		check("weft tunnel", carried.Revision, carried.Error)
	}
	return out
}
