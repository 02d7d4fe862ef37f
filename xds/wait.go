package xds

import (
	"net/http"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutation "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	headers "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	httpsfs "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	early "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	"google.golang.org/protobuf/proto"
)

// Envoy waits without a limit for a route table that it has asked for, and while no agent runs none comes. The only bound
// on that wait is a stream's idle timeout. A listener's own begins with the first byte of a request, so it would also end
// requests whose headers take their time. That of a route begins when the headers are complete. A request therefore has
// two scopes, one after the other:
//
//   - scopeWaiting, which Envoy always has. Its only route sets the timeout.
//   - The original destination. The filters of findScope write it into the header and have the route looked up again. The
//     first of them is served apart from the listener, because callers with and without an identity have different scopes.
//     If there is one, its own idle timeout replaces the first (see table.action). If there is none yet, the first remains
//     in force while Envoy waits.
//
// The answer to a request that has waited too long is 503 with the response flag SI, UNAVAILABLE to gRPC clients.

// scopeWaiting is the key of the first scope. It cannot be an original destination.
const scopeWaiting = "waiting"

// boundWait sets up m so that a request waits for its route table for a bounded time. The filter of the given name writes the
// key of the scope.
func boundWait(m *hcm.HttpConnectionManager, cfg *Config, filter string) {
	t := cfg.timeouts()
	m.EarlyHeaderMutationExtensions = []*core.TypedExtensionConfig{extension("envoy.http.early_header_mutation.header_mutation",
		&early.HeaderMutation{Mutations: setScope(scopeWaiting)})}
	m.HttpFilters = append(findScope(filter), m.HttpFilters...)
	// For what finds no scope at all. The headers have ended by then, or their own bound ends the request.
	m.StreamIdleTimeout = duration(t.headers + t.agent)
	m.StreamFlushTimeout = duration(0) // would be the same otherwise, for clients that read slowly
	m.LocalReplyConfig = &hcm.LocalReplyConfig{Mappers: []*hcm.ResponseMapper{{
		Filter: &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_ResponseFlagFilter{
			ResponseFlagFilter: &accesslog.ResponseFlagFilter{Flags: []string{"SI"}},
		}},
		StatusCode: number(http.StatusServiceUnavailable),
		Body: &core.DataSource{Specifier: &core.DataSource_InlineString{
			InlineString: "the routes of this Service are not known: the node's weft agent does not answer",
		}},
	}}}
}

// findScope replaces the first scope of a request by the one that a filter of the given name writes (see scopeFilter).
func findScope(filter string) []*hcm.HttpFilter {
	return []*hcm.HttpFilter{
		discovered(filter, &headers.HeaderMutation{}),
		httpFilter("envoy.filters.http.set_filter_state", &httpsfs.Config{ClearRouteCache: true}),
	}
}

// scopeFilter writes the scope's key of a caller with or without an identity, and the caller's namespace.
func scopeFilter(namespace string, plain bool) proto.Message {
	key := "%DOWNSTREAM_LOCAL_ADDRESS%"
	if plain {
		key += plainSuffix
	}
	caller := &mutation.HeaderMutation{Action: &mutation.HeaderMutation_Append{Append: setHeader(callerHeader, literal(namespace))}}
	return &headers.HeaderMutation{Mutations: &headers.Mutations{RequestMutations: append(setScope(key), caller)}}
}

// setScope overwrites the header that holds the scope's key.
func setScope(key string) []*mutation.HeaderMutation {
	return []*mutation.HeaderMutation{{Action: &mutation.HeaderMutation_Append{Append: setHeader(scopeHeader, key)}}}
}

// waitingScope is the scope that every request has first.
func waitingScope(cfg *Config) *routev3.ScopedRouteConfiguration {
	return &routev3.ScopedRouteConfiguration{
		Name: scopeWaiting,
		Key:  scopeKeyOf(scopeWaiting),
		RouteConfiguration: &routev3.RouteConfiguration{
			Name:             scopeWaiting,
			ValidateClusters: no(), // there is none
			VirtualHosts: []*routev3.VirtualHost{{Name: "*", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: ""}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{
					ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: clusterNone},
					IdleTimeout:      duration(cfg.timeouts().agent),
				}},
			}}}},
		},
	}
}
