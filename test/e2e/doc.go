// Package e2e tests the whole mesh on the cluster of test/cluster: two real nodes, real pods, Weft installed by its own
// chart. Run it by make e2e; it uses the cluster that is up, else brings one up and takes it down at its end. It needs
// root and the build tag cluster.
//
// Tests leave the cluster as they found it and print what they measured; build/e2e.json holds the same. Times are
// measured and never decide a test.
//
//	main_test.go      the cluster and the measurements
//	api_test.go       objects: apply, read, delete, wait
//	pods_test.go      workloads, and commands in them
//	flows_test.go     load that goes on while a test does something
//	*_test.go         a file for each thing that is tested
package e2e
