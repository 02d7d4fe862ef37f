package xds

import (
	"math"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutation "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	metrics "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	sfs "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	buffer "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	ondemand "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	httpsfs "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	upstreams "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// Limits of copies. Envoy streams a copy while the request comes in, and stops to read the request while the copy's
// backend does not read (Filter::decodeData in source/common/router/router.cc). So the mirror listener must take a copy
// in as fast as it comes: it reads it whole before it sends it on, and ends one that is too large. What copies take of
// Envoy's memory is at most mirrorRequests times mirrorBytes, twice while a copy may be repeated.
const (
	mirrorBytes    = 256 << 10 // of a copy's body; requests with a larger one are not copied
	mirrorRequests = 256       // copies under way at one time; more are dropped
)

// Envoy gives the copies of a request no filter state (https://github.com/envoyproxy/envoy/issues/38894), so they would
// have no identity and no network namespace: a strict backend would refuse them. Copies therefore go through an internal
// listener. They carry what it needs in headers, which are written over whatever the client sent and end there.
const (
	mirrorCluster = "x-weft-mirror" // where to
	mirrorPrefix  = mirrorCluster + "-"
)

// mirrored are the headers that carry filter state, in order.
var mirrored = []struct{ header, state, factory string }{
	{mirrorPrefix + "owner", stateOwner, factoryString},
	{mirrorPrefix + "identity", stateSecret, factoryHashable},
	{mirrorPrefix + "netns", stateNetNS, factoryHashable},
}

// mirror copies requests to a backend. The listener fetches its cluster, which Envoy does not for mirrors. A copy says nothing of its client's protocol, so the rule does.
func (t *table) mirror(m model.Mirror, r *model.Rule) *routev3.RouteAction_RequestMirrorPolicy {
	p := &routev3.RouteAction_RequestMirrorPolicy{
		Cluster:                       clusterMirror,
		RuntimeFraction:               fraction(m.Numerator, m.Denominator),
		DisableShadowHostSuffixAppend: true,
		RequestHeadersMutations:       []*mutation.HeaderMutation{overwrite(mirrorCluster, literal(t.clusterOf(m.Backend, r, true)))},
	}
	for _, h := range mirrored {
		p.RequestHeadersMutations = append(p.RequestHeadersMutations,
			&mutation.HeaderMutation{Action: &mutation.HeaderMutation_Remove{Remove: h.header}},
			overwrite(h.header, "%FILTER_STATE("+h.state+":PLAIN)%"))
	}
	return p
}

func overwrite(header, value string) *mutation.HeaderMutation {
	h := setHeader(header, value)
	h.KeepEmptyValue = false
	return &mutation.HeaderMutation{Action: &mutation.HeaderMutation_Append{Append: h}}
}

// mirrorListener sends the copies on, as whose they are.
func mirrorListener(cfg *Config) *listener.Listener {
	m := newHTTP(cfg, listenerMirror)
	m.SkipXffAppend = true
	m.AccessLog = append(m.AccessLog, cfg.mirrorStats()...)
	// Copies carry headers of ours besides those that the limits were applied to.
	m.CommonHttpProtocolOptions.MaxHeadersCount = number(maxHeaders + ownHeaders)
	m.MaxRequestHeadersKb = number(maxHeadersKB + ownHeadersKB)
	m.NormalizePath = no() // it was, and may have been rewritten since
	m.UpgradeConfigs = nil
	limits := cfg.timeouts()
	m.StreamIdleTimeout = duration(limits.idleCopies)
	m.CommonHttpProtocolOptions.MaxStreamDuration = duration(limits.copies)
	// Windows that never keep the copy's sender waiting: the connection has all copies, and each ends at mirrorBytes.
	m.Http2ProtocolOptions = &core.Http2ProtocolOptions{
		InitialStreamWindowSize: number(2 * mirrorBytes), InitialConnectionWindowSize: number(math.MaxInt32),
	}
	internal := []string{"x-envoy-external-address", "x-envoy-internal", mirrorCluster}
	state := &httpsfs.Config{}
	for _, h := range mirrored {
		v := setState(h.state, h.factory, "%REQ("+h.header+")%", transitive)
		v.Value.(*sfs.FilterStateValue_FormatString).FormatString.OmitEmptyValues = true
		v.SkipIfEmpty = true
		state.OnRequestHeaders = append(state.OnRequestHeaders, v)
		internal = append(internal, h.header)
	}
	m.RouteSpecifier = &hcm.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
		Name:                   listenerMirror,
		ValidateClusters:       no(),
		RequestHeadersToAdd:    []*core.HeaderValueOption{markPassed(copyPasses)},
		RequestHeadersToRemove: internal,
		VirtualHosts: []*routev3.VirtualHost{{Name: listenerMirror, Domains: []string{"*"}, Routes: []*routev3.Route{{
			Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_ClusterHeader{ClusterHeader: mirrorCluster},
				Timeout:          duration(0), // Envoy ends a copy when its request's time is over
				RetryPolicy:      retryPolicy(&model.Rule{}, false),
			}},
		}}}},
	}}
	m.HttpFilters = []*hcm.HttpFilter{
		httpFilter("envoy.filters.http.buffer", &buffer.Buffer{MaxRequestBytes: number(mirrorBytes)}),
		httpFilter("envoy.filters.http.set_filter_state", state),
		httpFilter("envoy.filters.http.on_demand", &ondemand.OnDemand{
			Odcds: &ondemand.OnDemandCds{Source: fromADS(), Timeout: duration(cfg.timeouts().agent)},
		}),
		routerFilter(),
	}
	return &listener.Listener{
		Name:              listenerMirror,
		StatPrefix:        listenerMirror,
		TrafficDirection:  core.TrafficDirection_OUTBOUND,
		ListenerSpecifier: internalSpecifier(),
		FilterChains:      []*listener.FilterChain{{Filters: []*listener.Filter{managed(m)}}},
	}
}

// mirrorToListener is the cluster that leads there.
func mirrorToListener() *cluster.Cluster {
	c := newCluster(clusterMirror)
	// Of this cluster Envoy counts what it drops: see statCopiesActive in internal/proxy.
	c.AltStatName = clusterMirror
	c.StatsMatcher = &metrics.StatsMatcher{StatsMatcher: &metrics.StatsMatcher_InclusionList{InclusionList: &matcher.ListStringMatcher{
		Patterns: []*matcher.StringMatcher{
			{MatchPattern: &matcher.StringMatcher_Suffix{Suffix: ".upstream_rq_active_overflow"}},
			{MatchPattern: &matcher.StringMatcher_Suffix{Suffix: ".upstream_rq_pending_overflow"}},
		},
	}}}
	c.UpstreamBindConfig, c.UpstreamConnectionOptions = nil, nil
	for _, limits := range c.CircuitBreakers.Thresholds {
		limits.MaxRequests, limits.MaxPendingRequests = number(mirrorRequests), number(mirrorRequests)
	}
	c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}
	c.LoadAssignment = &endpoint.ClusterLoadAssignment{
		ClusterName: clusterMirror,
		Endpoints: localities(&endpoint.LbEndpoint{HostIdentifier: &endpoint.LbEndpoint_Endpoint{
			Endpoint: &endpoint.Endpoint{Address: internalAddress(listenerMirror, "")},
		}}),
	}
	c.TypedExtensionProtocolOptions = protocol(&upstreams.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &core.Http2ProtocolOptions{},
				},
			},
		},
	})
	return c
}
