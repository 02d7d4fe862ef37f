// Package http shows that HTTP passes the mesh as it was sent: what a server gets of a request, and what a client gets of the
// answer, are the same as on a direct connection.
//
// A case is one exchange. It is played directly first, then through each way of the mesh: a Service with a route, the same
// with mutual authentication, the same with a policy that looks at requests, and a Gateway. What the server and the client saw is
// compared with the direct exchange. A difference is listed in the case, with its reason, or it is a fault.
//
//	http_test.go      the node, the ways, the comparison
//	server_test.go    the server, and what it saw
//	client_test.go    the client, and what it saw
//	cases_test.go     the cases
package http
