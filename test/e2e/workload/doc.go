// Package workload is what runs in the pods of the end-to-end tests: a server that says who it is over HTTP, bytes and
// datagrams, and load that a test starts and stops in it. Its command is in cmd.
//
// Load runs in the pod's own process, not in the kubectl exec that starts it: so it goes on while the API server is
// down, and kubelets and agents restart.
//
// Files: serve.go (servers), control.go (load of a running pod), client.go (single calls and what tests wait for).
package workload
