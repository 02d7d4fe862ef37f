// Package node tests a whole node: the real agent, the real Envoy and the real kernel, with pods as network namespaces,
// everything through manifests in the folder and real connections. It needs root and shows what `weft demo` does not
// measure. One node serves all tests, which run in order.
//
//	main_test.go       the node: pods, Services, start and end
//	backend_test.go    what runs in pods: HTTP, gRPC, bytes, datagrams
//	client_test.go     how tests call
//	services_test.go   the kernel's part: UDP, affinity, hairpins, who one's peer is, IPv6
//	routes_test.go     requests: matches, filters, consumer routes, gRPC, backends that are not there
//	detect_test.go     Service ports that may or may not speak HTTP
//	tlsroute_test.go   TLSRoutes of Services, by server name
//	mtls_test.go       modes, probes, rotation
//	policy_test.go     AuthorizationPolicies, and the live connections that they forbid
//	change_test.go     pods and agents that go and come under load
//	gateway_test.go    Gateways, both families, certificates replaced
//	backendtls_test.go TLS to backends, by BackendTLSPolicies
//	observe_test.go    flows and status
//	traces_test.go     spans of a Gateway at a collector, by the scripts in testdata
package node
