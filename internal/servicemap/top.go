package servicemap

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Load is the traffic to a workload from all others, as the edges to it say. Rates are per second.
type Load struct {
	End
	Callers int `json:"callers"` // edges to it with traffic
	// Requests, and of them: answered with 5xx or failed. P99 is the highest of its edges, in seconds; nil without requests.
	Requests float64  `json:"requests"`
	Errors   float64  `json:"errors"`
	P99      *float64 `json:"p99,omitempty"`
	// Connections that were established, and Refused connections and requests.
	Connections float64 `json:"connections"`
	Refused     float64 `json:"refused"`
	// Bytes, of both directions, of connections that ended.
	Bytes float64 `json:"bytes"`
}

// orders are what loads may be sorted by, the most first.
var orders = map[string]func(*Load) float64{
	"requests": func(l *Load) float64 { return l.Requests },
	"errors":   func(l *Load) float64 { return l.Errors },
	"p99": func(l *Load) float64 {
		if l.P99 == nil {
			return -1
		}
		return *l.P99
	},
	"connections": func(l *Load) float64 { return l.Connections },
	"bytes":       func(l *Load) float64 { return l.Bytes },
	"refused":     func(l *Load) float64 { return l.Refused },
}

// Top returns the workloads of a namespace, "" for all, by their traffic. Of what is not in a namespace, or not in one that the
// reader of the graph may see as a whole, there are none. The error is about by.
func Top(g *Graph, namespace, by string) ([]Load, error) {
	order := orders[by]
	if order == nil {
		return nil, fmt.Errorf("%q is none of %s", by, strings.Join(slices.Sorted(maps.Keys(orders)), ", "))
	}
	loads := map[string]*Load{}
	for _, n := range g.Nodes {
		if n.Namespace == "" || namespace != "" && n.Namespace != namespace || g.Namespaces != nil && !slices.Contains(g.Namespaces, n.Namespace) {
			continue
		}
		loads[n.ID] = &Load{End: n.End}
	}
	for i := range g.Edges {
		if l := loads[g.Edges[i].To]; l != nil {
			l.add(&g.Edges[i])
		}
	}
	out := []Load{}
	for _, l := range loads {
		if l.Callers > 0 {
			out = append(out, *l)
		}
	}
	slices.SortFunc(out, func(a, b Load) int {
		return cmp.Or(cmp.Compare(order(&b), order(&a)), strings.Compare(a.id(), b.id()))
	})
	return out, nil
}

func (l *Load) add(e *Edge) {
	if e.Idle() {
		return
	}
	l.Callers++
	l.Requests += e.Requests
	l.Errors += e.Errors
	l.Connections += e.Connections
	l.Refused += e.Refused + e.RefusedRequests
	l.Bytes += e.Sent + e.Received
	if e.P99 != nil && (l.P99 == nil || *e.P99 > *l.P99) {
		l.P99 = e.P99
	}
}
