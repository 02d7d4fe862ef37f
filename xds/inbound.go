package xds

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	sfs "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	httpsfs "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	origsrc "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_src/v3"
	direct "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxy "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/weft-mesh/weft/internal/model"
)

type sfsValue = sfs.FilterStateValue

// originalSrc keeps the client's address on Envoy's connection to the app.
func originalSrc() *listener.ListenerFilter {
	return listenerFilter("envoy.filters.listener.original_src", &origsrc.OriginalSrc{Mark: OriginalSourceMark})
}

// hboneListener takes authenticated connections: CONNECT to the workload's own addresses and nothing else, as far as
// its policy allows. Ports whose requests the policy looks at are opened in the workload's internal listener.
func hboneListener(cfg *Config, w *model.Workload) *listener.Listener {
	l := podListener(w, inHBONE, ownAddresses(w, PortHBONE), core.TrafficDirection_INBOUND)
	l.ListenerFilters = []*listener.ListenerFilter{originalSrc()}
	m := newHTTP(cfg, inHBONE)
	m.CodecType = hcm.HttpConnectionManager_HTTP2
	m.NormalizePath, m.HttpProtocolOptions = nil, nil
	m.Http2ProtocolOptions = tunnelHTTP2()
	m.StreamIdleTimeout = duration(0)                // a tunnel that holds much is reset; others may be idle
	m.Http2ProtocolOptions.ConnectionKeepalive = nil // the client's side pings
	m.UpgradeConfigs = []*hcm.HttpConnectionManager_UpgradeConfig{{UpgradeType: "CONNECT"}}
	m.CommonHttpProtocolOptions.IdleTimeout = duration(cfg.timeouts().idleTunnels)
	m.SkipXffAppend = true
	m.AccessLog = cfg.tunnelLog(logIn)
	m.AccessLogOptions = &hcm.HttpConnectionManager_HcmAccessLogOptions{FlushLogOnTunnelSuccessfullyEstablished: true}
	m.RouteSpecifier = &hcm.HttpConnectionManager_RouteConfig{RouteConfig: connectRoutes(w)}
	m.HttpFilters = append(m.HttpFilters, oneName(), authorization(w, inHBONE))
	if terminates(w) {
		m.HttpFilters = append(m.HttpFilters, httpFilter("envoy.filters.http.set_filter_state", &httpsfs.Config{
			OnRequestHeaders: []*sfsValue{
				setState(statePeer, factoryString, "%DOWNSTREAM_PEER_URI_SAN%", once),
				setState(stateLocal, "", "%REQ(:AUTHORITY)%", once),
				setState(stateRemote, "", "%DOWNSTREAM_REMOTE_ADDRESS%", once),
			},
		}))
	}
	m.HttpFilters = append(m.HttpFilters, routerFilter())
	l.FilterChains = []*listener.FilterChain{{
		TransportSocket:               downstreamTLS(w.Identity, cfg.TrustDomain),
		TransportSocketConnectTimeout: duration(cfg.timeouts().handshake),
		Filters:                       []*listener.Filter{stateFilter(identityState(w.Key(), w.Identity, w.NetNS)), managed(m)},
	}}
	return l
}

// connectRoutes: no other address, no port of the mesh's own (Envoy would call itself, or weft tunnel as the client), no other method. What has no route
// is answered with 404.
func connectRoutes(w *model.Workload) *routev3.RouteConfiguration {
	quoted := make([]string, len(w.Addresses))
	for i, a := range w.Addresses {
		quoted[i] = regexp.QuoteMeta(a.String())
		if a.Is6() {
			quoted[i] = `\[` + quoted[i] + `\]`
		}
	}
	own := "(" + strings.Join(quoted, "|") + "):"
	route := func(ports string, action *routev3.Route) {
		action.Match = &routev3.RouteMatch{
			PathSpecifier: &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}},
			Headers: []*routev3.HeaderMatcher{{
				Name:                 ":authority",
				HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: matching(own + ports)},
			}},
		}
	}
	var routes []*routev3.Route
	add := func(ports string, r *routev3.Route) { route(ports, r); routes = append(routes, r) }
	add("("+joinPorts(model.OwnPorts)+")", &routev3.Route{Action: directResponse(403)})
	ports, all := w.Policy.RequestPorts()
	const anyPort = "[1-9][0-9]{0,4}"
	if terminates(w) {
		open := anyPort
		if !all {
			open = "(" + joinPorts(ports) + ")"
		}
		add(open, connectTo(workloadName(w, inHTTP)))
	}
	if !all || !terminates(w) {
		add(anyPort, connectTo(clusterConnect))
	}
	return &routev3.RouteConfiguration{
		Name:             inHBONE,
		ValidateClusters: no(),
		VirtualHosts:     []*routev3.VirtualHost{{Name: inHBONE, Domains: []string{"*"}, Routes: routes}},
	}
}

func connectTo(clusterName string) *routev3.Route {
	return &routev3.Route{Action: &routev3.Route_Route{Route: &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: clusterName},
		Timeout:          duration(0),
		UpgradeConfigs: []*routev3.RouteAction_UpgradeConfig{{
			UpgradeType: "CONNECT", ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{},
		}},
	}}}
}

func joinPorts(ports []uint16) string {
	text := make([]string, len(ports))
	for i, p := range ports {
		text[i] = strconv.Itoa(int(p))
	}
	return strings.Join(text, "|")
}

// inHTTPListener takes what CONNECTs carried and decides on each request. The connection's addresses are those of the
// client and of the port that the CONNECT named.
func inHTTPListener(cfg *Config, w *model.Workload) *listener.Listener {
	return &listener.Listener{
		Name:              workloadName(w, inHTTP),
		StatPrefix:        inHTTP,
		TrafficDirection:  core.TrafficDirection_INBOUND,
		ListenerSpecifier: internalSpecifier(),
		ListenerFilters:   []*listener.ListenerFilter{originalDst(), originalSrc()},
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{
			inboundHTTP(cfg, w, inHTTP),
		}}},
	}
}

// plainListener takes connections in the clear to a workload with a policy. Nobody has an identity here, so that only
// ports decide on bytes: they are chosen by filter chain, and what has no chain is closed before a byte is read or
// written. (Envoy's RBAC filter for connections decides at the client's first byte: too late where the server speaks
// first.)
func plainListener(cfg *Config, w *model.Workload) *listener.Listener {
	l := podListener(w, inPlain, ownAddresses(w, PortInbound), core.TrafficDirection_INBOUND)
	l.ListenerFilters = []*listener.ListenerFilter{originalDst(), originalSrc()}
	state := stateFilter(identityState(w.Key(), "", w.NetNS))
	chain := func(name string, port uint16, filters ...*listener.Filter) {
		c := &listener.FilterChain{Name: name, Filters: filters}
		if port != 0 {
			c.Name += "-" + strconv.Itoa(int(port))
			c.FilterChainMatch = &listener.FilterChainMatch{DestinationPort: number(uint32(port))}
		}
		l.FilterChains = append(l.FilterChains, c)
	}
	for _, p := range model.OwnPorts { // Envoy would call itself
		chain("closed", p, networkFilter("envoy.filters.network.direct_response", &direct.Config{}))
	}
	httpPorts, allHTTP := w.Policy.RequestPorts()
	bytePorts, allBytes := plainPorts(w.Policy)
	http := func(port uint16) { chain("http", port, state, inboundHTTP(cfg, w, inPlain)) }
	bytes := func(port uint16) { chain("bytes", port, state, toApp(cfg)) }
	if allHTTP {
		http(0)
		return l
	}
	for _, p := range httpPorts {
		if !model.IsOwnPort(p) {
			http(p)
		}
	}
	if allBytes {
		bytes(0)
		return l
	}
	for _, p := range bytePorts {
		if !model.IsOwnPort(p) && !slices.Contains(httpPorts, p) {
			bytes(p)
		}
	}
	return l
}

func toApp(cfg *Config) *listener.Filter {
	return networkFilter("envoy.filters.network.tcp_proxy", &tcpproxy.TcpProxy{
		StatPrefix:       inPlain,
		ClusterSpecifier: &tcpproxy.TcpProxy_Cluster{Cluster: clusterInbound},
		IdleTimeout:      duration(0),
		AccessLog:        cfg.tunnelLog(logIn),
	})
}

// inboundHTTP decides on each request and sends it on to the app.
func inboundHTTP(cfg *Config, w *model.Workload, where string) *listener.Filter {
	m := newHTTP(cfg, inHTTP)
	m.SkipXffAppend = true
	m.AccessLog = append(cfg.requestLog(logRequest, w.Identity, "%FILTER_STATE("+statePeer+":PLAIN)%"), cfg.destinationStats(w)...)
	cfg.workloadTraces(m, w)
	if w.Policy.ComparesPaths() {
		// An app may take %2F for a slash, and so see another path than the one that was allowed.
		m.PathWithEscapedSlashesAction = hcm.HttpConnectionManager_REJECT_REQUEST
		m.MergeSlashes = true
	}
	m.RouteSpecifier = &hcm.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
		Name:             inHTTP,
		ValidateClusters: no(),
		VirtualHosts: []*routev3.VirtualHost{{Name: inHTTP, Domains: []string{"*"}, Routes: []*routev3.Route{{
			Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: clusterInboundHTTP},
				Timeout:          duration(0),
			}},
		}}}},
	}}
	m.HttpFilters = []*hcm.HttpFilter{authorization(w, where), routerFilter()}
	return managed(m)
}
