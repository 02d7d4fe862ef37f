package xds

import (
	"slices"
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	injector "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	codec "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	generic "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// The spans of a Gateway with an XTelemetryPolicy go to the cluster export|<ns>/<gateway>, which leads to the policy's collector.
//
// Headers that the policy adds are put in by filters of that cluster, and their values are secrets of their own: those are the one
// kind of resource that Envoy's admin interface does not print.

// maxExports bounds the requests of each Envoy to one collector that are not answered. What does not fit is dropped: a collector
// that takes spans and does not answer would have Envoy hold all of them until each request times out.
const maxExports = 64

// ExportClusters are the names of the clusters that lead to a Gateway's collector: one or none.
func ExportClusters(g *model.Gateway) []string {
	if g.Tracing == nil || g.Tracing.Collector == nil {
		return nil
	}
	return []string{exportName(g)}
}

func exportName(g *model.Gateway) string { return exportPrefix + g.Key() }

// parseExportName returns the key of the Gateway.
func parseExportName(s string) (key string, ok bool) {
	key, ok = strings.CutPrefix(s, exportPrefix)
	namespace, name := model.SplitKey(key)
	return key, ok && namespace != "" && name != "" && !strings.ContainsAny(name, "/|") && !strings.Contains(namespace, "|")
}

// collectorOf returns the collector of a Gateway, nil if it has none of its own.
func collectorOf(b *builder, key string) (*model.Gateway, *model.Collector) {
	g, ok := b.st.Gateways.Get(b.snap, key)
	if !ok || g.Tracing == nil {
		return nil, nil
	}
	return g, g.Tracing.Collector
}

// telemetryRefs is the policy that a Gateway's listeners come from, besides the Gateway.
func telemetryRefs(g *model.Gateway) []model.ObjectVersion {
	if g.Tracing == nil {
		return nil
	}
	return []model.ObjectVersion{g.Tracing.Policy}
}

// exportCluster reaches the collector in the clear, or by TLS where a BackendTLSPolicy selects it: what exports is Envoy itself,
// which has no identity.
func exportCluster(b *builder, name, key string) *built {
	g, to := collectorOf(b, key)
	if to == nil {
		return nil
	}
	c := endpointsCluster(name)
	c.UpstreamBindConfig = anyAddress(b.cfg.GatewayNetNS)
	c.CircuitBreakers = fewExports()
	options := serviceProtocol(true, false)
	options.HttpFilters = exportFilters(key, to.Headers)
	c.TypedExtensionProtocolOptions = protocol(options)
	objects := telemetryRefs(g)
	if t := backendTLS(b, to.Key()); t != nil {
		b.cfg.originates(c, t, "")
		objects = append(objects, t.Policy)
	}
	return &built{message: c, objects: objects}
}

func fewExports() *cluster.CircuitBreakers {
	return &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{{
		MaxConnections: number(maxExports), MaxPendingRequests: number(maxExports), MaxRequests: number(maxExports),
	}}}
}

// exportFilters puts each header into requests; nil if there is none.
func exportFilters(gateway string, headers []model.SecretHeader) []*hcm.HttpFilter {
	if len(headers) == 0 {
		return nil
	}
	var out []*hcm.HttpFilter
	for _, h := range headers {
		f := httpFilter("envoy.filters.http.credential_injector", &injector.CredentialInjector{
			Overwrite: true,
			Credential: extension("envoy.http.injected_credentials.generic", &generic.Generic{
				Credential: &tls.SdsSecretConfig{Name: headerPrefix + gateway + "/" + h.Name, SdsConfig: fromADS()},
				Header:     h.Name,
			}),
		})
		f.Name += "/" + h.Name
		out = append(out, f)
	}
	return append(out, httpFilter("envoy.filters.http.upstream_codec", &codec.UpstreamCodec{}))
}

// exportHeader is the value of a header as a secret; of is <ns>/<gateway>/<header>.
func exportHeader(b *builder, name, of string) *built {
	i := strings.LastIndexByte(of, '/')
	if i < 0 {
		return nil
	}
	g, to := collectorOf(b, of[:i])
	if to == nil {
		return nil
	}
	h := slices.IndexFunc(to.Headers, func(h model.SecretHeader) bool { return h.Name == of[i+1:] })
	if h < 0 {
		return nil
	}
	return &built{
		message: &tls.Secret{Name: name, Type: &tls.Secret_GenericSecret{GenericSecret: &tls.GenericSecret{
			Secret: &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: to.Headers[h].Value}},
		}}},
		objects: telemetryRefs(g),
	}
}

// exportEndpoints are those of the collector.
func exportEndpoints(b *builder, name, key string) *built {
	g, to := collectorOf(b, key)
	if to == nil {
		return nil
	}
	out := &endpoint.ClusterLoadAssignment{ClusterName: name}
	// Never by HBONE: see exportCluster.
	of := serviceName{namespace: to.Namespace, name: to.Service, port: to.Port, plain: true}
	if list := serviceEndpoints(b, of); len(list) > 0 {
		out.Endpoints = localities(list...)
	}
	return &built{message: out, objects: append(telemetryRefs(g), serviceRef(to.Namespace, to.Service))}
}
