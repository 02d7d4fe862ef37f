package xds

import (
	"slices"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	fault "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
)

// wellFormedHost is a host and perhaps a port (RFC 9110 7.2). There is no user in it (4.2.4).
const wellFormedHost = `(\[[0-9A-Fa-f:.]*\]|[^:@]*)(:[0-9]*)?`

// refuseOddHosts answers 400 where what follows the colon of a Host is no port, or where the Host has a user. Envoy finds the
// virtual host by what is before the colon, so a request for shop.example:80@evil.example would get to the backends of
// shop.example, and an application that makes links of the Host would make them to evil.example.
//
// It is a filter and not a route of each virtual host: Envoy would compile the expression for each, which takes 6 KB. A tenant
// may have 32,768 hostnames.
func refuseOddHosts(m *hcm.HttpConnectionManager) {
	odd := headerMatch(":authority", matching(wellFormedHost))
	odd.InvertMatch = true
	abortWhere(m, 400, odd)
}

// abortWhere answers requests with a header with a status and no body.
func abortWhere(m *hcm.HttpConnectionManager, status uint32, where *routev3.HeaderMatcher) {
	m.HttpFilters = slices.Insert(m.HttpFilters, 0, httpFilter("envoy.filters.http.fault", &fault.HTTPFault{
		Headers: []*routev3.HeaderMatcher{where},
		Abort: &fault.FaultAbort{
			ErrorType:  &fault.FaultAbort_HttpStatus{HttpStatus: status},
			Percentage: &typev3.FractionalPercent{Numerator: 100, Denominator: typev3.FractionalPercent_HUNDRED},
		},
		DisableDownstreamClusterStats: true,
	}))
	m.LocalReplyConfig = &hcm.LocalReplyConfig{Mappers: []*hcm.ResponseMapper{withoutBody("FI")}}
}

// withoutBody takes Envoy's own words, "fault filter abort", from its answers with a flag (Envoy, access logging, RESPONSE_FLAGS).
func withoutBody(flag string) *hcm.ResponseMapper {
	return &hcm.ResponseMapper{
		Filter: &accesslog.AccessLogFilter{FilterSpecifier: &accesslog.AccessLogFilter_ResponseFlagFilter{
			ResponseFlagFilter: &accesslog.ResponseFlagFilter{Flags: []string{flag}},
		}},
		Body: &core.DataSource{Specifier: &core.DataSource_InlineString{}},
	}
}
