package servicemap

import (
	"slices"
	"strings"
	"time"
)

// Bounds of a Graph. What has the most traffic stays.
const (
	MaxEdges = 600
	MaxNodes = 300
	// maxServices, maxReasons and maxPolicies bound what one edge or node names.
	maxServices, maxReasons, maxPolicies = 8, 8, 16
)

// How much of an edge's traffic is of connections whose both ends proved who they are, by mutual TLS.
const (
	AllMTLS  = "all"
	SomeMTLS = "some"
	NoMTLS   = "none"
)

// Graph is the map, version 1 of its form. Rates are per second, times in seconds.
type Graph struct {
	Time time.Time `json:"time"`
	// Window is the longest time that a node's rates are of; 0 if no node has two moments to compare yet.
	Window float64 `json:"window"`
	Nodes  []Node  `json:"nodes"`
	Edges  []Edge  `json:"edges"`
	// Other sums the traffic for which there was no room, here or in a node's counts; nil for none.
	Other *Other `json:"other,omitempty"`
	// Missing are the nodes of the cluster that did not answer, sorted.
	Missing []string `json:"missing,omitempty"`
	// Namespaces are those whose edges the graph has; nil for all.
	Namespaces []string `json:"namespaces,omitempty"`
}

// Node is a workload, a Gateway, a Service without pods, or what is outside of the mesh.
type Node struct {
	ID string `json:"id"`
	End
	// Modes are the mTLS modes of its pods, and Policies the AuthorizationPolicies that select one of them. Nil where they are
	// not known, or are not for the reader.
	Modes    []string `json:"modes,omitempty"`
	Policies []string `json:"policies,omitempty"`
}

// Edge is the traffic from one node to another.
type Edge struct {
	ID       string   `json:"id"`
	From     string   `json:"from"` // ID of a Node
	To       string   `json:"to"`
	Services []string `json:"services,omitempty"` // namespace/name: what was asked for
	MTLS     string   `json:"mtls"`
	// Requests a second, and of them: answered with 5xx or failed; refused by a policy.
	Requests        float64 `json:"requests,omitempty"`
	Errors          float64 `json:"errors,omitempty"`
	RefusedRequests float64 `json:"refusedRequests,omitempty"`
	// P50 and P99 are the times in seconds within which so many percent of the requests were answered; nil without requests.
	P50 *float64 `json:"p50,omitempty"`
	P99 *float64 `json:"p99,omitempty"`
	// Connections a second that were established, that failed, and that the mesh refused.
	Connections float64 `json:"connections,omitempty"`
	Failed      float64 `json:"failed,omitempty"`
	Refused     float64 `json:"refused,omitempty"`
	// Reasons of Refused, each with its connections a second.
	Reasons map[string]float64 `json:"reasons,omitempty"`
	// Exchanges of UDP datagrams a second that ended; Questions to DNS, and those of them that have no answer.
	Exchanges  float64 `json:"exchanges,omitempty"`
	Questions  float64 `json:"questions,omitempty"`
	Unanswered float64 `json:"unanswered,omitempty"`
	// Bytes a second of connections and exchanges that ended, Sent from From to To.
	Sent     float64 `json:"sent,omitempty"`
	Received float64 `json:"received,omitempty"`
}

// Idle reports whether nothing was counted in the window.
func (e *Edge) Idle() bool { return e.weight() == 0 }

func (e *Edge) weight() float64 {
	return e.Requests + e.Connections + e.Exchanges + e.Questions/dnsWeight + 10*(e.Errors+e.RefusedRequests+e.Failed+e.Refused) + e.Unanswered
}

// Other is what a graph leaves out.
type Other struct {
	Edges    int     `json:"edges"` // or counts of a node
	Requests float64 `json:"requests"`
	// Connections are those that were established.
	Connections float64 `json:"connections"`
	Refused     float64 `json:"refused"` // connections and requests
}

// id names an end. No part of an end holds a control character that is not escaped here.
func (e End) id() string {
	return escape(e.Namespace) + "/" + escape(e.Kind) + "/" + escape(e.Name)
}

var escaper = strings.NewReplacer("%", "%25", "/", "%2F", ">", "%3E")

func escape(s string) string { return escaper.Replace(s) }

// For returns what a reader may see who may see the flows of some namespaces: the edges with an end in one of them. What
// configures the other end, and what is summed over all, is not for him.
func (g *Graph) For(allowed func(namespace string) bool) *Graph {
	out := &Graph{Time: g.Time, Window: g.Window, Nodes: []Node{}, Edges: []Edge{}, Missing: g.Missing}
	of := map[string]string{}
	for i := range g.Nodes {
		of[g.Nodes[i].ID] = g.Nodes[i].Namespace
	}
	ends := map[string]bool{}
	for _, e := range g.Edges {
		if allowed(of[e.From]) || allowed(of[e.To]) {
			out.Edges = append(out.Edges, e)
			ends[e.From], ends[e.To] = true, true
		}
	}
	for _, n := range g.Nodes {
		if !ends[n.ID] {
			continue
		}
		if !allowed(n.Namespace) {
			n.Modes, n.Policies = nil, nil
		}
		out.Nodes = append(out.Nodes, n)
	}
	return out
}

// sortedSome returns the first texts of a set, sorted.
func sortedSome(set map[string]bool, most int) []string {
	if len(set) == 0 {
		return nil
	}
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out[:min(len(out), most)]
}
