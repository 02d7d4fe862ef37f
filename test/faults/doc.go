// Package faults breaks what a node stands on, and looks for two things: what is wrong is told with its cause and what to
// do, and everything else goes on. It needs root: the agent, Envoy and the kernel are real.
//
//	start_test.go     what weft agent refuses to start on
//	node_test.go      a node that runs: the faults, one after the other, and who watches meanwhile
//	watch_test.go     the watchers: a plain client before a strict pod, clients that must not fail
//	secrets_test.go   files, sockets and logs of that node
package faults
