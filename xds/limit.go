package xds

import (
	"slices"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	limit "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	defaultConnections = 10_000
	gatewayFactor      = 5 // a Gateway has the clients of many pods

	// What a message may have in headers, requests and answers alike, whichever listener or cluster it passes.
	maxHeaders   = 1000
	maxHeadersKB = 60
	// acceptedAtOnce are the connections that Envoy accepts of a listener before it turns to what else there is to do. Without
	// it, Envoy goes on while more come, so that one pod's connections hold up those of all.
	acceptedAtOnce = 1
	// connectionBuffer is what Envoy reads of a connection, or has to write to it, before it stops reading from where that
	// comes from, in bytes. By HTTP/1.1, 64 KiB cost Envoy 45 % more CPU for each byte than its default of 1 MiB, and 128 KiB 10 %.
	connectionBuffer = 128 << 10
	// streamWindow and connectionWindow are HTTP/2's, in bytes. A stream whose bytes nobody reads holds a window, or two. What
	// Envoy has by default, 16 MiB and 24 MiB, let 45 connections take its heap. With these a byte costs it as much CPU; with
	// 64 KiB a stream it cost a third more. A connection to a server has Envoy's window: pods share it, and answers that one
	// does not read must not keep those of others.
	streamWindow     = 256 << 10
	connectionWindow = 1 << 20
	// neverIdle is a time after which a stream ends on which nothing passes. Short of memory Envoy makes it shorter (see
	// reduce_timeouts in internal/proxy); a stream without it would hold what it holds for ever.
	neverIdle = 365 * 24 * time.Hour
	// ownHeaders are left for those that we add between two of our listeners.
	ownHeaders   = 16
	ownHeadersKB = 4
)

// timeouts bound how long a client can hold a connection without a request. Nothing bounds what takes its time after
// that: bytes, uploads, streams, websockets. While Envoy is short of memory, requests on which nothing passes end, but for those of
// pods on routes, whose routes lift the bound (see wait.go).
type timeouts struct {
	handshake   time.Duration // from the connection's start until TLS is there
	headers     time.Duration // from a request's first byte until its headers are there
	agent       time.Duration // a request that waits for the agent: for its route table, or for a cluster
	firstBytes  time.Duration // a connection that may or may not speak HTTP, until its first line is there
	idle        time.Duration // a connection of a pod without a request
	idleTunnels time.Duration // a peer's connection without a tunnel
	idleClients time.Duration // a Gateway's connection without a request
	idleCopies  time.Duration // a copy of a request without progress
	copies      time.Duration // from the first byte of a copy to the last byte of its answer
	sessions    time.Duration // a session of datagrams without one
}

var defaultTimeouts = timeouts{
	handshake:   10 * time.Second,
	headers:     30 * time.Second,
	agent:       time.Second,
	firstBytes:  500 * time.Millisecond,
	idle:        time.Hour,
	idleTunnels: 10 * time.Minute, // both Envoy's pool and those of other implementations give theirs up before
	idleClients: 10 * time.Minute,
	idleCopies:  3 * time.Second,
	copies:      30 * time.Second,
	sessions:    sessionIdle,
}

func (c *Config) timeouts() timeouts {
	if c.testTimeouts != nil {
		return *c.testTimeouts
	}
	return defaultTimeouts
}

// limited bounds the connections of a pod's listener. A listener with several filter chains has the limit for each. The filter
// comes first: what it refuses costs no handshake and no look-up.
func (c *Config) limited(l *listener.Listener) *listener.Listener {
	first := networkFilter("envoy.filters.network.connection_limit", &limit.ConnectionLimit{
		StatPrefix: l.StatPrefix, MaxConnections: wrapperspb.UInt64(c.connectionsPerListener()),
	})
	for _, chain := range l.FilterChains {
		chain.Filters = slices.Insert(chain.Filters, 0, first)
	}
	return l
}

// frugal bounds what a connection of a listener holds, where requests are read. Bytes are not bounded so: see the known faults in
// docs/design/envoy.md. With a bound of its own a listener that detects HTTP also carries a client that ends its side before its
// first bytes were looked at, which it does not without, so it has Envoy's.
func frugal(l *listener.Listener) *listener.Listener {
	l.PerConnectionBufferLimitBytes = number(connectionBuffer)
	return l
}

// clientHTTP2 returns the options of clients' connections of HTTP/2.
func clientHTTP2() *core.Http2ProtocolOptions {
	o := serverHTTP2()
	o.InitialConnectionWindowSize = number(connectionWindow)
	return o
}

// serverHTTP2 returns the options of connections of HTTP/2 to applications.
func serverHTTP2() *core.Http2ProtocolOptions {
	return &core.Http2ProtocolOptions{AllowConnect: true, InitialStreamWindowSize: number(streamWindow)}
}

func (c *Config) connectionsPerListener() uint64 {
	if c.ConnectionsPerListener == 0 {
		return defaultConnections
	}
	return c.ConnectionsPerListener
}
