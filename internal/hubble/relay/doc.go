// Package relay answers Hubble's Observer and Peer API for a cluster, in the controller, and serves the service map's page.
//
//	clients ── TLS, token ──► Server ── Access: whose flows may be seen
//	                            │
//	                            └─► Nodes: the connections that agents opened ──► hubble.Observer of each node
//
// A request goes to all nodes at once. What they kept is merged by time (history.go); what comes afterwards is passed on as
// it comes (follow.go). A node that does not answer is named, and asked again while flows are followed. Nothing is stored
// here. A client that does not read stops the reading of its own streams from the nodes, by the windows of HTTP/2, and then
// its observers skip flows and say how many; it holds up nobody else.
//
// Files: nodes.go (agents), watch.go (refusals, for the controller's Events), access.go (callers), server.go (the service and its
// bounds), stream.go (a client and the nodes of a request), history.go, follow.go, status.go, servicemap.go.
package relay
