package xds

import (
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	cors "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	ondemand "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weft-mesh/weft/internal/model"
)

const (
	filterCORS = "envoy.filters.http.cors"
	// noHost stands for the host of a request in HTTP/1.0 that names none (RFC 9112 3.2). No server has it (RFC 2606).
	noHost = "no-host.invalid"
)

// newHTTP returns what all HTTP listeners have in common. Nothing about a request changes that nobody asked to change.
// There is no limit on how long a request, an answer or an idle stream takes, unless Envoy is short of memory. There are limits on what a client can hold
// before it has sent a request: see timeouts and the header limits.
func newHTTP(cfg *Config, statPrefix string) *hcm.HttpConnectionManager {
	t := cfg.timeouts()
	return &hcm.HttpConnectionManager{
		StatPrefix:                 statPrefix,
		ServerHeaderTransformation: hcm.HttpConnectionManager_PASS_THROUGH,
		GenerateRequestId:          no(),
		Proxy_100Continue:          true,
		StreamIdleTimeout:          duration(neverIdle),
		RequestHeadersTimeout:      duration(t.headers),
		MaxRequestHeadersKb:        number(maxHeadersKB),
		ForwardClientCertDetails:   hcm.HttpConnectionManager_ALWAYS_FORWARD_ONLY, // of an ingress before the client
		NormalizePath:              yes(),                                         // paths are compared by routes and policies: /a/../b is /b
		CommonHttpProtocolOptions: &core.HttpProtocolOptions{
			MaxHeadersCount: number(maxHeaders),
			IdleTimeout:     duration(t.idle),
		},
		HttpProtocolOptions: &core.Http1ProtocolOptions{
			AcceptHttp_10: true, DefaultHostForHttp_10: noHost,
			AllowCustomMethods:   true, // methods are an open set (RFC 9110 9.1)
			EnableTrailers:       true,
			IgnoreHttp_11Upgrade: ignoredUpgrades(),
		},
		Http2ProtocolOptions: clientHTTP2(),
		UpgradeConfigs:       upgradeConfigs(),
	}
}

// scopedHTTP finds the route table by original destination. The header that carries it is written by us over whatever
// the client sent, and every route table strips it.
func scopedHTTP(cfg *Config, w *model.Workload) *listener.Filter {
	m := newHTTP(cfg, outHTTP)
	m.RouteSpecifier = &hcm.HttpConnectionManager_ScopedRoutes{ScopedRoutes: &hcm.ScopedRoutes{
		Name:            scopesName,
		RdsConfigSource: fromADS(),
		ScopeKeyBuilder: &hcm.ScopedRoutes_ScopeKeyBuilder{Fragments: []*hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{{
			Type: &hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{
				HeaderValueExtractor: &hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor{
					Name: scopeHeader,
					ExtractType: &hcm.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{
						Index: 0,
					},
				},
			},
		}}},
		ConfigSpecifier: &hcm.ScopedRoutes_ScopedRds{ScopedRds: &hcm.ScopedRds{ScopedRdsConfigSource: fromADS()}},
	}}
	m.SkipXffAppend = true
	m.AccessLog = append(cfg.requestLog(logRequestOut, w.Identity, "%UPSTREAM_METADATA("+metaWeft+":"+metaIdentity+")%"), cfg.sourceStats(w)...)
	cfg.workloadTraces(m, w)
	m.HttpFilters = routingFilters(cfg)
	boundWait(m, cfg, workloadName(w, outHTTP))
	return managed(m)
}

// routingFilters fetch route table and cluster, answer CORS preflights, and route.
func routingFilters(cfg *Config) []*hcm.HttpFilter {
	return []*hcm.HttpFilter{
		httpFilter("envoy.filters.http.on_demand", &ondemand.OnDemand{
			Odcds: &ondemand.OnDemandCds{Source: fromADS(), Timeout: duration(cfg.timeouts().agent)},
		}),
		httpFilter(filterCORS, &cors.Cors{}),
		routerFilter(),
	}
}

func routerFilter() *hcm.HttpFilter {
	return httpFilter("envoy.filters.http.router", &router.Router{SuppressEnvoyHeaders: true})
}

func httpFilter(name string, m proto.Message) *hcm.HttpFilter {
	return &hcm.HttpFilter{Name: name, ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: typed(m)}}
}

func managed(m *hcm.HttpConnectionManager) *listener.Filter {
	return networkFilter("envoy.filters.network.http_connection_manager", m)
}

// setHeader overwrites, addHeader appends. Values may hold Envoy's command operators: escape values from elsewhere.
func setHeader(name, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{
		Header:         &core.HeaderValue{Key: name, Value: value},
		AppendAction:   core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		KeepEmptyValue: true,
	}
}

func addHeader(name, value string) *core.HeaderValueOption {
	h := setHeader(name, value)
	h.AppendAction = core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
	return h
}
