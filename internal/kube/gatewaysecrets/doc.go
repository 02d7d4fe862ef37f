// Package gatewaysecrets brings the Secrets of Gateways' certificates from the controller to the agents that serve
// Gateways, and to all agents the certificates of authorities in ConfigMaps, so that no agent needs to read either from the
// API server.
//
//	controller: Secrets, ConfigMaps, and what refers to them, Nodes ── Publisher ──┐ HTTP/2 response that does not end,
//	                                                                               │ at the CA's port, one for each agent
//	agent:      tables of Secrets and ConfigMaps, role of the node  <── Receiver ──┘
//
// The CA authenticates the agent and knows its node by its token (package internal/ca). An agent receives every Secret that
// a listener of a Gateway with an address uses, because any node that may serve Gateways may have to answer for the address
// at any time. A node that may not serve Gateways is told so and receives no Secret.
//
// While no controller answers, an agent keeps what it has. It writes that to a file in the run directory, from which the
// next agent starts. The run directory is in memory: a restart of the machine takes the file away.
//
// Files: protocol.go and bundle.go (messages and bounds), publisher.go and stream.go (the controller), receiver.go and keep.go (the agent).
package gatewaysecrets
