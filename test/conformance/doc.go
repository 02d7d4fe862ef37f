// Package conformance runs the official Gateway API conformance suite against the mesh on the cluster of test/cluster. It
// is a module of its own, so that what the suite requires is not required by the mesh.
//
//	make conformance                                                all that the mesh declares
//	make conformance ARGS='-run /HTTPRoute.*Mirror'                 some of it
//	make conformance ARGS=-namespace-labels=weft.io/mtls=strict     with all backends and clients authenticated
//
// Files, in build/: conformance.log (the whole output), conformance.txt (the table), conformance-report.yaml (the report
// that the Gateway API project takes). In this package: conformance_test.go (options), table_test.go. In images: a module
// with the messages of the suite's echo servers, of which it requires a module that no module proxy has.
package conformance
