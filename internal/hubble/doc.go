// Package hubble speaks Hubble's API (github.com/cilium/cilium/api/v1, observer.proto and flow.proto) for the flows of a node.
//
//	observe.Store ── flow.go, endpoint.go ──► flow.Flow ── filter*.go ──► Observer.GetFlows ──► package relay, in the controller
//
// The agent serves an Observer to the controller alone, on connections that it opens itself (uplink.go): a node listens on no
// further port. Filters are applied on the node, so that only what is asked for leaves it, and may compute for a bounded time
// (effort.go).
//
// A flow of Weft is a connection or a request as a whole, seen in the direction in which it was opened. What Hubble's
// messages have no field for is in Flow.extensions (extension.go).
package hubble
