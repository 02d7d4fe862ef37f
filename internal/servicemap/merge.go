package servicemap

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/traffic"
)

// stats are rates of what one kind of reporter counted of a pair.
type stats struct {
	requests, errors, refusedRequests, opened, failed, refused, sent, received float64
	exchanges, questions, unanswered, udpSent, udpReceived                     float64
	latency                                                                    []float64
	reasons                                                                    map[string]float64
	// How much was authenticated, and how much was not: in the window, and whether anything ever was.
	authenticated, clear         float64
	everAuthenticated, everClear bool
}

// collected is a pair's.
type collected struct {
	near, far stats // of the source or the Gateway; of the destination
	services  map[string]bool
}

// Merge makes the graph of what nodes say. Where both ends count, the source's count is taken, and of refusals the greater.
func Merge(now time.Time, parts []*Part, missing []string) *Graph {
	g := &Graph{Time: now.UTC(), Missing: missing, Nodes: []Node{}, Edges: []Edge{}}
	pairs := map[Pair]*collected{}
	var other Other
	for _, p := range parts {
		g.Window = max(g.Window, p.Seconds)
		other.Edges += p.Left
		for i := range p.Counts {
			c := &p.Counts[i]
			if c.Other {
				other.add(c, p.Seconds)
				continue
			}
			at, ok := pairs[c.Pair]
			if !ok {
				at = &collected{services: map[string]bool{}}
				pairs[c.Pair] = at
			}
			at.add(c, p.Seconds)
		}
	}
	all := make([]located, 0, len(pairs))
	for pair, c := range pairs {
		all = append(all, located{pair, c.edge(pair)})
	}
	slices.SortFunc(all, func(a, b located) int {
		return cmp.Or(cmp.Compare(b.edge.weight(), a.edge.weight()), comparePairs(a.pair, b.pair))
	})
	g.take(all, &other, parts)
	if other != (Other{}) {
		g.Other = &other
	}
	return g
}

// located is an edge with its ends.
type located struct {
	pair Pair
	edge Edge
}

// take puts edges into the graph, the heaviest first, while there is room for them and their ends.
func (g *Graph) take(all []located, other *Other, parts []*Part) {
	nodes := map[End]bool{}
	for _, l := range all {
		more := 0
		for _, end := range []End{l.pair.From, l.pair.To} {
			if !nodes[end] {
				more++
			}
		}
		if len(g.Edges) == MaxEdges || len(nodes)+more > MaxNodes {
			other.Edges++
			other.Requests += l.edge.Requests
			other.Connections += l.edge.Connections
			other.Refused += l.edge.Refused + l.edge.RefusedRequests
			continue
		}
		nodes[l.pair.From], nodes[l.pair.To] = true, true
		g.Edges = append(g.Edges, l.edge)
	}
	slices.SortFunc(g.Edges, func(a, b Edge) int { return cmp.Compare(a.ID, b.ID) }) // a picture that stays as it is
	known := workloads(parts)
	for _, end := range slices.SortedFunc(maps.Keys(nodes), compareEnds) {
		n := Node{ID: end.id(), End: end}
		if w := known[end]; w != nil {
			n.Modes, n.Policies = sortedSome(w.modes, maxPolicies), sortedSome(w.policies, maxPolicies)
		}
		g.Nodes = append(g.Nodes, n)
	}
}

type configured struct{ modes, policies map[string]bool }

// workloads joins what nodes know of the pods of each end.
func workloads(parts []*Part) map[End]*configured {
	out := map[End]*configured{}
	for _, p := range parts {
		for _, w := range p.Workloads {
			c := out[w.End]
			if c == nil {
				c = &configured{map[string]bool{}, map[string]bool{}}
				out[w.End] = c
			}
			for _, m := range w.Modes {
				c.modes[m] = true
			}
			for _, name := range w.Policies {
				c.policies[name] = true
			}
		}
	}
	return out
}

// perSecond returns a rate; 0 where no time was measured.
func perSecond(n uint64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(n) / seconds
}

func (o *Other) add(c *Count, seconds float64) {
	o.Requests += perSecond(c.Requests, seconds)
	o.Connections += perSecond(c.Opened, seconds)
	refused := c.RefusedRequests
	for _, n := range c.Refused {
		refused += n
	}
	o.Refused += perSecond(refused, seconds)
}

func (at *collected) add(c *Count, seconds float64) {
	s := &at.near
	if c.Reporter == traffic.AtDestination {
		s = &at.far
	}
	if c.Service != "" {
		at.services[c.Service] = true
	}
	s.requests += perSecond(c.Requests, seconds)
	s.errors += perSecond(c.Errors, seconds)
	s.refusedRequests += perSecond(c.RefusedRequests, seconds)
	s.opened += perSecond(c.Opened, seconds)
	s.failed += perSecond(c.Failed, seconds)
	s.sent += perSecond(c.Sent, seconds)
	s.received += perSecond(c.Received, seconds)
	s.exchanges += perSecond(c.UDP.Exchanges, seconds)
	s.questions += perSecond(c.UDP.Questions, seconds)
	s.unanswered += perSecond(c.UDP.Unanswered, seconds)
	s.udpSent += perSecond(c.UDP.Sent, seconds)
	s.udpReceived += perSecond(c.UDP.Received, seconds)
	for reason, n := range c.Refused {
		if s.reasons == nil {
			s.reasons = map[string]float64{}
		}
		s.reasons[reason] += perSecond(n, seconds)
		s.refused += perSecond(n, seconds)
	}
	for i, n := range c.Latency {
		if s.latency == nil {
			s.latency = make([]float64, len(model.DurationBuckets)+1)
		}
		if i < len(s.latency) {
			s.latency[i] += float64(n)
		}
	}
	if c.MTLS {
		s.authenticated += perSecond(c.Requests+c.Opened, seconds)
		s.everAuthenticated = s.everAuthenticated || c.Ever
	} else {
		s.clear += perSecond(c.Requests+c.Opened+c.UDP.Exchanges+c.UDP.Questions, seconds)
		s.everClear = s.everClear || c.Ever
	}
}

// edge chooses between what the two ends say.
func (at *collected) edge(pair Pair) Edge {
	out := Edge{ID: pair.From.id() + ">" + pair.To.id(), From: pair.From.id(), To: pair.To.id(), Services: sortedSome(at.services, maxServices)}
	requests, connections, refusals, way := &at.near, &at.near, &at.near, &at.near
	if at.near.requests == 0 {
		requests = &at.far
	}
	if at.near.opened+at.near.failed == 0 {
		connections = &at.far
	}
	if at.far.refused > at.near.refused {
		refusals = &at.far
	}
	if way.authenticated+way.clear == 0 && (at.far.authenticated+at.far.clear > 0 || !way.everAuthenticated && !way.everClear) {
		way = &at.far
	}
	out.Requests, out.Errors = requests.requests, requests.errors
	out.RefusedRequests = max(at.near.refusedRequests, at.far.refusedRequests)
	out.P50, out.P99 = quantile(.5, requests.latency), quantile(.99, requests.latency)
	out.Connections, out.Failed, out.Sent, out.Received = connections.opened, connections.failed, connections.sent, connections.received
	if connections == &at.near { // what the destination refuses has failed for the source, give or take a moment
		if out.Failed -= at.far.refused; out.Failed < 0.1*at.far.refused {
			out.Failed = 0
		}
	}
	exchanges, questions := &at.near, &at.near
	if at.near.exchanges == 0 {
		exchanges = &at.far
	}
	if at.near.questions == 0 {
		questions = &at.far
	}
	out.Exchanges, out.Questions, out.Unanswered = exchanges.exchanges, questions.questions, questions.unanswered
	out.Sent, out.Received = out.Sent+exchanges.udpSent, out.Received+exchanges.udpReceived
	out.Refused, out.Reasons = refusals.refused, someReasons(refusals.reasons)
	out.MTLS = way.mtls()
	return out
}

func (s *stats) mtls() string {
	authenticated, clear := s.authenticated > 0, s.clear > 0
	if !authenticated && !clear { // idle: by what there was before
		authenticated, clear = s.everAuthenticated, s.everClear
	}
	switch {
	case authenticated && clear:
		return SomeMTLS
	case authenticated:
		return AllMTLS
	}
	return NoMTLS
}

// someReasons keeps the most frequent reasons.
func someReasons(all map[string]float64) map[string]float64 {
	if len(all) <= maxReasons {
		return all
	}
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(cmp.Compare(all[b], all[a]), cmp.Compare(a, b))
	})
	out := map[string]float64{}
	for _, name := range names[:maxReasons] {
		out[name] = all[name]
	}
	return out
}
