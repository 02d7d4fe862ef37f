package servicemap

import (
	"cmp"
	"net/url"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/traffic"
)

// Kinds of ends that made no pods.
const (
	gatewayKind = "Gateway"
	serviceKind = "Service"
)

// End is an end of an edge: what made pods, a Gateway, or a Service that has no pod to name. Fields that are not known are
// empty; without any it is outside of the mesh.
type End struct {
	Namespace string `json:"namespace,omitempty"`
	Kind      string `json:"kind,omitempty"` // Deployment, Pod, Gateway, Service and so on
	Name      string `json:"name,omitempty"`
}

// Pair are the ends of an edge.
type Pair struct {
	From End `json:"from"`
	To   End `json:"to"`
}

// Values returns the form that a pair has in the query of a URL.
func (p Pair) Values() url.Values {
	q := url.Values{}
	for prefix, e := range map[string]End{"from": p.From, "to": p.To} {
		q.Set(prefix+"Namespace", e.Namespace)
		q.Set(prefix+"Kind", e.Kind)
		q.Set(prefix+"Name", e.Name)
	}
	return q
}

// ParsePair is the inverse of Values.
func ParsePair(q url.Values) Pair {
	end := func(prefix string) End {
		return End{q.Get(prefix + "Namespace"), q.Get(prefix + "Kind"), q.Get(prefix + "Name")}
	}
	return Pair{end("from"), end("to")}
}

// Count is what one node counted of a pair, a Service, a reporter and a way in the time of the Part.
type Count struct {
	Pair
	Service  string `json:"service,omitempty"` // namespace/name
	Reporter string `json:"reporter"`          // source, destination or gateway
	MTLS     bool   `json:"mtls,omitempty"`
	// Ever is true if anything was let through since the node counts, in the time of the Part or before.
	Ever bool `json:"ever,omitempty"`
	// Other is true of the sum of the traffic for which a node had no room.
	Other bool `json:"other,omitempty"`
	traffic.Totals
}

// Workload is what a node knows of its own pods that are one end. Modes and Policies are those of any of them, sorted.
type Workload struct {
	End
	Modes    []string `json:"modes"`
	Policies []string `json:"policies,omitempty"` // namespace/name of the AuthorizationPolicies that select it
}

// Part is what a node says.
type Part struct {
	// Seconds is the time in which it counted; 0 if it has only begun, and then all counts are 0.
	Seconds   float64    `json:"seconds"`
	Counts    []Count    `json:"counts"`
	Workloads []Workload `json:"workloads,omitempty"`
	// Left is how many counts found no room.
	Left int `json:"left,omitempty"`
}

// MaxCounts bounds the counts of a Part. Those with the most traffic stay.
const MaxCounts = 1000

// PairOf returns the ends of labels. Where the destination has no pod, the Service that was asked for is the end.
func PairOf(l *traffic.Labels) Pair {
	end := func(e traffic.End) End { return End{e.Namespace, e.Owner.Kind, e.Owner.Name} }
	p := Pair{end(l.Source), end(l.Destination)}
	if p.To.Name == "" && l.Service != "" {
		ns, name := model.SplitKey(l.Service)
		p.To = End{ns, serviceKind, name}
	}
	return p
}

// newPart compares two moments of a node.
func newPart(before, after *sample) *Part {
	p := &Part{Seconds: after.at.Sub(before.at).Seconds()}
	for l, now := range after.totals {
		c := Count{Pair: PairOf(&l), Service: l.Service, Reporter: l.Reporter, MTLS: l.MTLS, Totals: since(now, before.totals[l]), Ever: now.Requests+now.Opened+now.UDP.Exchanges+now.UDP.Questions > now.RefusedRequests}
		switch {
		case l.IsOverflow():
			c.Other, c.Pair, c.Service = true, Pair{}, ""
		case c.Pair == Pair{}:
			continue // it is not known who talks to whom, so nobody could find it
		}
		p.Counts = append(p.Counts, c)
	}
	slices.SortFunc(p.Counts, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.weight(), a.weight()), comparePairs(a.Pair, b.Pair), cmp.Compare(a.Reporter, b.Reporter), cmp.Compare(a.Service, b.Service))
	})
	p.cut(MaxCounts)
	return p
}

// cut leaves the first counts.
func (p *Part) cut(most int) {
	if n := len(p.Counts); n > most {
		p.Counts, p.Left = p.Counts[:most], p.Left+n-most
	}
}

// dnsWeight is how many questions to DNS count as one connection: nearly every workload asks, and all of them the same server.
const dnsWeight = 10

// weight orders what is kept first: refusals and errors are what people look for.
func (c *Count) weight() uint64 {
	n := c.Requests + c.Opened + c.UDP.Exchanges + c.UDP.Questions/dnsWeight + 10*(c.Errors+c.RefusedRequests+c.Failed) + c.UDP.Unanswered
	if c.UDP.Questions > 0 {
		n++
	}
	for _, r := range c.Refused {
		n += 10 * r
	}
	return n
}

// since returns how much totals have grown. A total that is less than before has begun anew.
func since(now, before traffic.Totals) traffic.Totals {
	grown := func(now, before uint64) uint64 {
		if now < before {
			return now
		}
		return now - before
	}
	out := traffic.Totals{
		Requests: grown(now.Requests, before.Requests), Errors: grown(now.Errors, before.Errors),
		RefusedRequests: grown(now.RefusedRequests, before.RefusedRequests),
		Opened:          grown(now.Opened, before.Opened), Failed: grown(now.Failed, before.Failed),
		Sent: grown(now.Sent, before.Sent), Received: grown(now.Received, before.Received),
		UDP: traffic.UDPTotals{
			Exchanges: grown(now.UDP.Exchanges, before.UDP.Exchanges), Sent: grown(now.UDP.Sent, before.UDP.Sent),
			Received: grown(now.UDP.Received, before.UDP.Received), Questions: grown(now.UDP.Questions, before.UDP.Questions),
			Unanswered: grown(now.UDP.Unanswered, before.UDP.Unanswered),
		},
	}
	for i, n := range now.Latency {
		if i < len(before.Latency) {
			n = grown(n, before.Latency[i])
		}
		if out.Latency == nil && n > 0 {
			out.Latency = make([]uint64, len(now.Latency))
		}
		if n > 0 {
			out.Latency[i] = n
		}
	}
	for reason, n := range now.Refused {
		if n = grown(n, before.Refused[reason]); n > 0 {
			if out.Refused == nil {
				out.Refused = map[string]uint64{}
			}
			out.Refused[reason] = n
		}
	}
	return out
}

func compareEnds(a, b End) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
}

func comparePairs(a, b Pair) int { return cmp.Or(compareEnds(a.From, b.From), compareEnds(a.To, b.To)) }
