// Package wire is the benchmark's HTTP client and server. They do as little as possible (one thread, epoll, fixed
// requests and answers), so that what is between them is what the machine spends its time on.
//
//	server.go   answers every request with 200 and a short body; /stream with bytes without end
//	client.go   requests a second and their latencies, over connections kept or opened anew
//	stream.go   bytes a second of one connection
//	http.go     as much of HTTP/1.1 as is needed
package wire
