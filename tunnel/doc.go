// Package tunnel carries the authenticated TCP connections of a node's pods that no route applies to.
//
//	application ─► 127.0.0.1:15003 ─┐                         ┌─► application
//	   (led there by the kernel)    weft tunnel ═══ mTLS ═══► weft tunnel
//	                                 in the client's     :15009 in the server's
//	                                 namespace           namespace
//
// A session is a TLS 1.3 connection between two pods. It carries streams: each is one connection of an application. A
// stream has its own window, its own half-close in each direction, and its own reset, so it ends as TCP ended at the other
// side and holds up no other stream.
//
// The Server is the agent's part: it tells the Node, a process of its own, what the tables hold, over a Unix socket. The
// Node keeps the last state while no agent runs. What it does not know is refused and never sent in the clear.
//
//	frame.go, session.go, stream.go   the protocol; it knows nothing of pods
//	outgoing.go, incoming.go          a stream's bytes from the application, and to it
//	window.go                         how many bytes a stream may send
//	transport.go, credentials.go      TLS, and who is at the other end
//	socket.go, namespace.go           sockets in pods' namespaces
//	node.go                           the state of a node, and its loops
//	workloads.go, pod.go              pods come, change and leave
//	certificates.go, peers.go         certificates and the bundle; who is at an address
//	route.go                          the sessions that a pod opened to another
//	guests.go, shares.go              what one peer may have of a pod
//	source.go, order.go               a connection's way out
//	attempt.go                        the next endpoint, where one does not answer
//	destination.go                    a connection's way in
//	reserve.go                        ports of connections that outlive a change of modes
//	policy.go, flows.go, memory.go    what a policy says, what is reported, what streams may hold
//	messages.go, link.go, server.go   the agent and the Node
//	carried.go                        rows of what weft tunnels have in force
package tunnel
