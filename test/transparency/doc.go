// Package transparency shows that applications see through the mesh what TCP shows them without it: the same bytes, the
// same ends, the same errors.
//
// A case is a conversation of a client with a server: who closes first and how, resets at each phase, slow readers,
// socket options. Each runs between two processes in the network namespaces of two pods, first directly, then through
// the paths of the mesh. What an end observes is a list of lines. A path whose lines differ from the direct ones fails.
//
//	transparency_test.go  the node, the paths, the comparison
//	process_test.go       processes that play one end, and how two of them meet
//	end_test.go           what an end can do, and how it notes what happens
//	cases_test.go, resets_test.go, slow_test.go, options_test.go   the cases
package transparency
