// Package transparency shows that applications see through the mesh what TCP shows them without it: the same bytes, the
// same ends, the same errors.
//
// A case is a conversation of a client with a server: who closes first and how, resets at each phase, slow readers,
// socket options, many connections. Each runs between two processes in the network namespaces of two pods, first directly, then
// through the paths of the mesh. Each connection has bytes of its own, and its receiver knows them. What an end observes is a list of
// lines. A path whose lines differ from the direct ones fails, unless differences lists what it shows instead, with a reason.
//
//	transparency_test.go  the node, the comparison
//	paths_test.go, manifest_test.go   the paths, and the objects that make them
//	differences_test.go   what paths show by design, and cases that are not played on them
//	process_test.go       processes that play one end, and how two of them meet
//	end_test.go, socket_test.go   what an end can do, and how it notes what happens
//	bytes_test.go         the bytes of a connection, and how a receiver compares them
//	cases_test.go, resets_test.go, slow_test.go, options_test.go, addresses_test.go, many_test.go   the cases
//	relay_test.go         relays that are broken: the comparison must find each fault
//	strangers_test.go     who else speaks to weft tunnel
package transparency
