package api

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// NewStatus returns what one snapshot of a node says, and what is wrong.
func NewStatus(n Node, now time.Time) Status {
	st := n.State
	snap := st.Snapshot()
	s := Status{
		Agent: n.Agent, Folder: n.folder(snap), Datapath: datapath(st, snap), Proxy: n.proxy(snap),
		Workloads: []Workload{}, Identities: identities(st, snap),
		Gateways: gateways(st, snap), Rejections: collect(st.Rejections.All(snap)), Lost: collect(st.Lost.All(snap)),
		Exports: collect(st.Exports.All(snap)),
	}
	slices.SortStableFunc(s.Rejections, model.CompareOverBudget)
	s.CNI, _ = st.CNI.Get(snap, (*model.CNI).Key(nil))
	s.Objects, s.Troubles = troubles(st, snap)
	for w := range st.Workloads.All(snap) {
		if w.Local {
			l := Workload{Namespace: w.Namespace, Name: w.Name, Addresses: w.Addresses, MTLS: w.MTLS, Identity: w.Identity}
			if w.Policy != nil {
				l.Policies = w.Policy.Names
			}
			s.Workloads = append(s.Workloads, l)
		}
	}
	for i := range s.Identities {
		if id := &s.Identities[i]; id.Local {
			c, _ := st.Certified.Get(snap, string(id.Identity))
			id.judge(c, now)
		}
	}
	select {
	case <-st.Synced():
		s.Synced = true
	default:
	}
	s.Faults = s.faults(now)
	s.Healthy = len(s.Faults) == 0
	return s
}

// judge takes over how the certificate of an identity of this node fares. c is nil if it was never asked for.
func (id *Identity) judge(c *model.Certified, now time.Time) {
	id.Trouble, id.Overdue = c.Problem(now), c.Overdue(now)
	if c == nil {
		return
	}
	id.Failures = c.Failures
	if id.Trouble == "" && id.Overdue {
		id.Trouble = c.Error
	}
}

// faults says what is wrong with the node: what its operator must look at. What is wrong with an object is for whoever
// wrote it, and is in Troubles, Rejections and the problems of Folder: nobody but that object suffers, so it makes no node
// unhealthy. Lost events and flows, and exports that fail, are shown but are no fault: nothing but the view of the traffic suffers.
func (s *Status) faults(now time.Time) []string {
	var out []string
	fault := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !s.Synced {
		fault("agent: not everything is read yet; nothing is withdrawn until then")
	}
	if f := s.Folder; f != nil {
		for _, p := range f.Problems {
			if p.OfNode() {
				fault("objects cannot be read from %s: %s", f.Dir, p)
			}
		}
	}
	if c := s.CNI; c != nil {
		for _, p := range c.Problems {
			fault("CNI: %s", p)
		}
		if c.File == "" && len(c.Problems) == 0 {
			fault("CNI: the plugin is in no network configuration; pods join the mesh a moment after they start")
		}
	}
	for _, f := range s.Datapath.Faults() {
		fault("datapath: %s", f)
	}
	if s.Proxy.State != "LIVE" {
		fault("proxy: Envoy %s; is weft proxy running?", proxyState(s.Proxy))
	} else if !s.Proxy.Connected {
		fault("proxy: Envoy holds no stream to the agent; it keeps what it has and learns nothing new")
	}
	if p := s.Proxy; len(p.Overload) > 0 {
		fault("proxy: Envoy is in overload (%s); see which workloads have many connections or large requests, or raise weft proxy --memory-limit", strings.Join(p.Overload, ", "))
	}
	if e := s.Proxy.Tunnel; e != "" {
		fault("tunnel: %s", e)
	}
	for _, i := range s.Identities {
		switch {
		case !i.Local:
		case i.SVID == nil:
			fault("identity %s: no certificate, and its workloads cannot be authenticated: %s", i.Identity, i.Trouble)
		case !now.Before(i.SVID.NotAfter):
			fault("identity %s: the certificate expired at %s: %s", i.Identity, i.SVID.NotAfter.Format(time.RFC3339), i.Trouble)
		case i.Overdue:
			fault("identity %s: the certificate expires at %s and could not be renewed: %s", i.Identity, i.SVID.NotAfter.Format(time.RFC3339), i.Trouble)
		}
	}
	for _, r := range s.Rejections {
		if ofNode(r) {
			fault("Envoy refused %s: %s", r.Resource, r.Message)
		}
	}
	return out
}

// ofNode reports whether what Envoy refused is of the mesh's own making. What comes from a route, a policy, a Gateway or
// a certificate follows what its author asked for, and is a problem of that object. So is what an object has more of than its share.
// So is a port in a pod's network namespace that a process of the pod has.
func ofNode(r *model.Rejection) bool {
	return !r.OverBudget() && !slices.ContainsFunc(r.Objects, func(o model.ObjectVersion) bool {
		switch o.Kind {
		case "Pod":
			return r.CannotBind()
		case "Gateway", "ListenerSet", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "BackendTLSPolicy", "XTelemetryPolicy", "AuthorizationPolicy", "Secret":
			return true
		}
		return false
	})
}

// gateways lists the Gateways of the mesh's classes, those too that are not served: their statuses tell of them.
func gateways(st *state.State, snap *state.Snapshot) []*model.Gateway {
	out := collect(st.Gateways.All(snap))
	for s := range st.Statuses.All(snap) {
		if s.Object.Kind != "Gateway" {
			continue
		}
		g := &model.Gateway{Namespace: s.Object.Namespace, Name: s.Object.Name}
		if _, served := st.Gateways.Get(snap, g.Key()); served {
			continue
		}
		for _, text := range s.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				g.Addresses = append(g.Addresses, a)
			}
		}
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *model.Gateway) int { return strings.Compare(a.Key(), b.Key()) })
	return out
}

func proxyState(p Proxy) string {
	switch {
	case p.State != "":
		return "is " + p.State
	case p.Error != "":
		return "does not answer (" + p.Error + ")"
	}
	return "does not answer"
}

// troubles counts the objects that have a status, and gives what does not work of them.
func troubles(st *state.State, snap *state.Snapshot) (objects int, out []Trouble) {
	for s := range st.Statuses.All(snap) {
		objects++
		for _, f := range s.Failures() {
			out = append(out, Trouble{Object: s.Object, For: f.For, Type: f.Type, Reason: f.Reason, Message: f.Message})
		}
	}
	for c := range st.Carried.All(snap) {
		if w, ok := st.Workloads.Get(snap, c.Name); ok && c.PortTaken {
			out = append(out, Trouble{
				Object: model.ObjectRef{Kind: "Pod", Namespace: w.Namespace, Name: w.Name}, Type: model.ConditionProgrammed,
				Reason: "PortUnavailable", Message: "weft tunnel takes no connections there: " + c.Error,
			})
		}
	}
	return objects, out
}
