package xds

import (
	"net/netip"
	"slices"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsinspector "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// gatewayListenerNames returns one name a port: gateway/<ns>/<name>/<port>, and for UDP that of datagramNames.
func gatewayListenerNames(g *model.Gateway) []string {
	if len(g.Addresses) == 0 {
		return nil
	}
	names := datagramNames(g)
	for _, p := range g.Ports {
		if p.UDP {
			continue
		}
		if n := model.GatewayTable(g.Namespace, g.Name, p.Port, ""); len(p.Listeners) > 0 && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

func buildGatewayListener(b *builder, name string, n gatewayName) *built {
	g, ok := b.st.Gateways.Get(b.snap, n.key())
	if !ok || len(g.Addresses) == 0 || n.listener != "" || n.plain {
		return nil
	}
	for _, p := range g.Ports {
		if !p.UDP && p.Port == n.port && len(p.Listeners) > 0 {
			return &built{
				message: gatewayListener(b, g, p, name),
				objects: append(p.Owners(gatewayRef(g.Namespace, g.Name, g.Generation)), telemetryRefs(g)...),
			}
		}
	}
	return nil
}

// gatewayListener listens on a Gateway's addresses in Envoy's own namespace. The addresses may come to the host later
// than the listener (freebind).
func gatewayListener(b *builder, g *model.Gateway, p model.GatewayPort, name string) *listener.Listener {
	cfg := b.cfg
	l := &listener.Listener{
		Name:             name,
		StatPrefix:       "gateway",
		TrafficDirection: core.TrafficDirection_INBOUND,
		Freebind:         yes(),
		Address:          tcpAddress(netip.AddrPortFrom(g.Addresses[0], p.Port), cfg.GatewayNetNS),

		MaxConnectionsToAcceptPerSocketEvent: number(acceptedAtOnce),
	}
	for _, a := range g.Addresses[1:] {
		l.AdditionalAddresses = append(l.AdditionalAddresses, &listener.AdditionalAddress{
			Address: tcpAddress(netip.AddrPortFrom(a, p.Port), cfg.GatewayNetNS),
		})
	}
	state := stateFilter(identityState(gatewayPrefix+g.Key(), g.Identity, ""))
	if !slices.ContainsFunc(p.Listeners, func(gl model.GatewayListener) bool { return len(gl.Streams) > 0 }) {
		frugal(l)
	}
	if !p.TLS && len(p.Listeners[0].Streams) > 0 {
		l.FilterChains = streamChains(b, g, p, p.Listeners[0], state, map[string]bool{})
		return l
	}
	// The filter waits for the first bytes, which HCM's own timeouts do not: a client that sends nothing is let go.
	l.ListenerFilters = []*listener.ListenerFilter{listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspector.TlsInspector{})}
	if !p.TLS {
		l.ListenerFiltersTimeout = duration(min(cfg.timeouts().headers, cfg.timeouts().idleClients))
		l.FilterChains = []*listener.FilterChain{{
			Filters: []*listener.Filter{state, gatewayHTTP(cfg, g, p.Listeners[0].RouteTable)},
		}}
		return l
	}
	l.ListenerFiltersTimeout = duration(cfg.timeouts().handshake)
	seen := map[string]bool{}
	for _, gl := range p.Listeners {
		if len(gl.Streams) > 0 {
			l.FilterChains = append(l.FilterChains, streamChains(b, g, p, gl, state, seen)...)
			continue
		}
		if seen[gl.Hostname] || len(gl.Certificates) == 0 {
			continue // a second chain for one SNI would make Envoy refuse all of them
		}
		seen[gl.Hostname] = true
		chain := &listener.FilterChain{
			Name:                          gl.Name,
			TransportSocket:               gatewayTLS(g, p, gl, "h2", "http/1.1"),
			TransportSocketConnectTimeout: duration(cfg.timeouts().handshake),
			Filters:                       []*listener.Filter{state, gatewayHTTP(cfg, g, gl.RouteTable)},
		}
		chain.FilterChainMatch = sniMatch(gl.Hostname)
		l.FilterChains = append(l.FilterChains, chain)
	}
	return l
}

// gatewayTLS ends TLS at a listener. It agrees with the client on one of the protocols, or on none.
func gatewayTLS(g *model.Gateway, p model.GatewayPort, gl model.GatewayListener, protocols ...string) *core.TransportSocket {
	c := &tls.CommonTlsContext{
		TlsParams:     &tls.TlsParameters{TlsMinimumProtocolVersion: tls.TlsParameters_TLSv1_2},
		AlpnProtocols: protocols,
	}
	for _, key := range gl.Certificates {
		c.TlsCertificateSdsSecretConfigs = append(c.TlsCertificateSdsSecretConfigs,
			&tls.SdsSecretConfig{Name: certPrefix + key, SdsConfig: fromADS()})
	}
	context := &tls.DownstreamTlsContext{CommonTlsContext: c}
	if gl.Clients != nil {
		checkClients(context, clientsName(g, p.Port), gl.Clients.Fallback)
	}
	return transportSocket("envoy.transport_sockets.tls", context)
}

// gatewayHTTP faces the world: it appends to X-Forwarded-For, and gives an ID to requests that have none. Without a trusted hop it
// overwrites X-Forwarded-Proto.
func gatewayHTTP(cfg *Config, g *model.Gateway, table string) *listener.Filter {
	if g.Identity == "" {
		table += plainSuffix
	}
	m := newHTTP(cfg, "gateway")
	m.UseRemoteAddress = yes()
	m.XffNumTrustedHops = g.TrustedHops
	m.ForwardClientCertDetails = hcm.HttpConnectionManager_SANITIZE // a client must not say whose certificate it has
	m.GenerateRequestId, m.PreserveExternalRequestId = yes(), true
	m.StreamIdleTimeout = duration(time.Hour)
	m.CommonHttpProtocolOptions.IdleTimeout = duration(cfg.timeouts().idleClients)
	m.Http2ProtocolOptions = &core.Http2ProtocolOptions{
		AllowConnect:                true,
		MaxConcurrentStreams:        number(1000),
		InitialStreamWindowSize:     number(64 << 10),
		InitialConnectionWindowSize: number(1 << 20),
	}
	m.RouteSpecifier = &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{RouteConfigName: table, ConfigSource: fromADS()}}
	m.AccessLog = append(cfg.requestLog(logRequest, "", ""), cfg.gatewayStats(g)...)
	cfg.gatewayTraces(m, g)
	m.HttpFilters = routingFilters(cfg)
	refuseOddHosts(m)
	refuseLoops(m)
	return managed(m)
}
