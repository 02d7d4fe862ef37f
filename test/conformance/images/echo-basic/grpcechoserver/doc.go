// Package grpcechoserver has the client, the server's interface and the messages of the echo server's gRPC service.
package grpcechoserver

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative grpcecho.proto
