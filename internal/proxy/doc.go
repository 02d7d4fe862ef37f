// Package proxy supervises the node's Envoy, in a process apart from the agent (weft proxy).
//
//	weft proxy ── starts ──> Envoy ── ADS ──> <run>/xds.sock (the agent)
//	  │ control: <run>/proxy.sock      └ admin: <run>/envoy-admin.sock
//	  └ remembers in <run>/proxy.json which Envoy serves
//
// An Envoy outlives its supervisor: when `weft proxy` is killed, traffic goes on, and the next `weft proxy` adopts the
// Envoy by a hot restart. Envoy asks the kernel to be told to end with its parent (PR_SET_PDEATHSIG, in its hot restart
// code), so its parent must never be the supervisor: it is started through a launcher that ends before Envoy begins
// (launch.go). The supervisor watches it by pidfd.
//
// Who supervises holds the lock <run>/proxy.lock. A second `weft proxy` that finds it taken asks the first, over
// proxy.sock, to hand over: it starts the next epoch, and once that is live the first gives up the lock, waits for its
// Envoy to drain, and ends.
//
// | file | idea |
// |---|---|
// | config.go, find.go | what can be set; which binary |
// | bootstrap.go | Envoy's bootstrap and flags |
// | launch.go, process.go | a process that is not a child: start, watch, end |
// | record.go | what is remembered of an Envoy; the lock |
// | supervisor.go, restart.go, handover.go | first start, crash, hot restart, one supervisor after another |
// | overload.go | an Envoy that is short of memory: told, and replaced if it stays so |
// | control.go, client.go, status.go, admin.go | what can be asked |
package proxy
