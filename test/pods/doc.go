// Package pods tests how pods come into the mesh of a real node and leave it: a container runtime that calls the CNI
// plugin, pods that ran before, an agent that is down or comes back. The API server is a small one of the test's.
package pods
