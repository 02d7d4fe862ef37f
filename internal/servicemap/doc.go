// Package servicemap makes a graph of who talks to whom: workloads as nodes, and edges with rates, errors, latency, refusals
// and whether both ends proved who they are.
//
//	traffic (counts of a node) ─► Recorder ─► Part of a node ─► Merge ─► Graph ─► page (package web), weft edges
//
// A node counts without end; a Recorder compares two moments and says what was counted in between. Nothing is recorded
// while nobody looks. A Part and a Graph are bounded: see MaxCounts, MaxEdges and MaxNodes. What finds no room is counted.
//
// Files: part.go (what a node says), recorder.go (two moments of a node), graph.go (the types), merge.go (parts into a graph),
// quantile.go, local.go (a node's answers), rpc.go (how a controller asks a node), dot.go.
package servicemap
