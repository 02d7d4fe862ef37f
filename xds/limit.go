package xds

import (
	"slices"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	limit "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	defaultConnections = 10_000
	gatewayFactor      = 5 // a Gateway has the clients of many pods
)

// limited bounds the connections of a listener. The filter comes first: what it refuses costs no handshake and no
// look-up. A listener with several filter chains has the limit for each.
func (c *Config) limited(l *listener.Listener, factor uint64) *listener.Listener {
	most := c.ConnectionsPerListener
	if most == 0 {
		most = defaultConnections
	}
	first := networkFilter("envoy.filters.network.connection_limit", &limit.ConnectionLimit{
		StatPrefix: l.StatPrefix, MaxConnections: wrapperspb.UInt64(most * factor),
	})
	for _, chain := range l.FilterChains {
		chain.Filters = slices.Insert(chain.Filters, 0, first)
	}
	return l
}
