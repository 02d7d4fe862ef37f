// Package echobasic has what the Gateway API's conformance suite imports of its echo servers: the messages that they answer
// with. The suite requires them of a module that cannot be had from a module proxy, so this one stands in for it. The servers
// themselves are those of the suite's release v1.6.3 (test/cluster), which speak the same protocol.
//
// In the packages below: grpcechoserver (the gRPC service, its proto and what protoc makes of it), tcpserver, udpechoserver.
package echobasic
