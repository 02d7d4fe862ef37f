package xds

import (
	"slices"
	"time"

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
	// ownHeaders are left for those that we add between two of our listeners.
	ownHeaders   = 16
	ownHeadersKB = 4
)

// timeouts bound how long a client can hold a connection without a request. Nothing bounds what takes its time after
// that: bytes, uploads, streams, websockets.
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

func (c *Config) connectionsPerListener() uint64 {
	if c.ConnectionsPerListener == 0 {
		return defaultConnections
	}
	return c.ConnectionsPerListener
}
