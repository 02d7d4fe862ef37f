package servicemap

import (
	"fmt"
	"io"
	"strings"
)

// WriteDOT writes a graph in the language of Graphviz (https://graphviz.org/doc/info/lang.html), a cluster a namespace.
func WriteDOT(w io.Writer, g *Graph) error {
	var b strings.Builder
	b.WriteString("digraph weft {\n  rankdir=LR; node [shape=box];\n")
	namespace := ""
	for _, n := range g.Nodes { // by namespace
		if n.Namespace != namespace {
			if namespace != "" {
				b.WriteString("  }\n")
			}
			if namespace = n.Namespace; namespace != "" {
				fmt.Fprintf(&b, "  subgraph %s {\n    label=%s;\n", quote("cluster_"+namespace), quote(namespace))
			}
		}
		fmt.Fprintf(&b, "    %s [label=%s];\n", quote(n.ID), quote(n.Title()))
	}
	if namespace != "" {
		b.WriteString("  }\n")
	}
	for i := range g.Edges {
		e := &g.Edges[i]
		style := "style=dashed"
		if e.MTLS == AllMTLS {
			style = "style=solid"
		}
		if e.Errors+e.RefusedRequests+e.Failed+e.Refused+e.Unanswered > 0 {
			style += ", color=red"
		}
		fmt.Fprintf(&b, "  %s -> %s [label=%s, %s];\n", quote(e.From), quote(e.To), quote(e.Summary()), style)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

var dotEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ", "\r", " ")

func quote(s string) string { return `"` + dotEscaper.Replace(s) + `"` }

// Title is what a node is called beside its namespace.
func (e End) Title() string {
	switch {
	case e.Name != "" && e.Kind != "":
		return e.Name + " (" + e.Kind + ")"
	case e.Name != "":
		return e.Name
	case e.Namespace != "":
		return "unknown"
	}
	return "outside of the mesh"
}

// String names an end: namespace/name, or what is known of it.
func (e End) String() string {
	name := e.Name
	if name == "" {
		name = e.Title()
	}
	if e.Namespace == "" {
		return name
	}
	return e.Namespace + "/" + name
}

// Summary says the rates of an edge in a few words.
func (e *Edge) Summary() string {
	var out []string
	for _, r := range []struct {
		rate float64
		of   string
	}{
		{e.Requests, "req/s"}, {e.Errors, "errors/s"}, {e.Connections, "conn/s"}, {e.Failed, "failed/s"},
		{e.Exchanges, "UDP/s"}, {e.Questions, "DNS/s"}, {e.Unanswered, "unanswered/s"},
		{e.Refused + e.RefusedRequests, "refused/s"},
	} {
		if r.rate > 0 {
			out = append(out, Rate(r.rate)+" "+r.of)
		}
	}
	if len(out) == 0 {
		return "idle"
	}
	return strings.Join(out, ", ")
}

// Rate prints a rate with some three digits.
func Rate(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.01:
		return "<0.01"
	case v < 10:
		return strings.TrimSuffix(fmt.Sprintf("%.2f", v), ".00")
	case v < 100:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
	return fmt.Sprintf("%.0f", v)
}
