// Package gatewaysecrets brings the Secrets of Gateways' certificates from the controller to the agents that serve
// Gateways, so that no agent needs to read Secrets from the API server.
//
//	controller: Secrets, Gateways, ReferenceGrants, Nodes ── Publisher ──┐ HTTP/2 response that does not end,
//	                                                                     │ at the CA's port, one for each agent
//	agent:      table of Secrets, role of the node        <── Receiver ──┘
//
// The CA authenticates the agent and knows its node by its token (package internal/ca). An agent receives every Secret that
// a listener of a Gateway with an address uses, because any node that may serve Gateways may have to answer for the address
// at any time. A node that may not serve Gateways is told so and receives none.
//
// While no controller answers, an agent keeps what it has. It writes that to a file in the run directory, from which the
// next agent starts. The run directory is in memory: a restart of the machine takes the file away.
//
// Files: protocol.go (messages and bounds), publisher.go and stream.go (the controller), receiver.go and keep.go (the agent).
package gatewaysecrets
