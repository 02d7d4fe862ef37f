package xds

import (
	"cmp"
	"math"
	"slices"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	trace "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	uuid "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	detectors "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/resource_detectors/v3"
	samplers "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/samplers/v3"
	tag "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// Traces says where Envoy sends spans, by OTLP over gRPC, and of how many requests.
type Traces struct {
	// Namespace, Service and Port are the collector's. It must be reached in the clear: Envoy itself has no identity.
	Namespace, Service string
	Port               uint16
	// Sampling is the percentage of requests that begin a trace, from 0 to 100. A label of a namespace wins.
	Sampling float64
}

// DefaultSampling is the percentage of requests that begin a trace where nobody says.
const DefaultSampling = 1

// clusterTraces leads to the collector.
const clusterTraces = "traces"

// maxSpanPath bounds the length of a path in a span.
const maxSpanPath = 256

// traced is what spans are about.
type traced struct {
	service, namespace string
	attributes         map[string]string // of OpenTelemetry's semantic conventions, besides those of every span
	sampling           *float64          // nil is that of Traces
	// outermost requests come from clients whose word on sampling is not taken: they could have all requests sampled.
	outermost bool
	// collector is the cluster that spans go to, "" is that of the mesh.
	collector string
	operation string // the span's name, "" for the usual one
	tags      []*tag.CustomTag
}

func (cfg *Config) workloadTraces(m *hcm.HttpConnectionManager, w *model.Workload) {
	cfg.trace(m, traced{
		service: w.CountedAs().Name, namespace: w.Namespace, sampling: w.TraceSampling,
		attributes: map[string]string{"k8s.pod.name": w.Name, "k8s.namespace.name": w.Namespace},
	})
}

func (cfg *Config) gatewayTraces(m *hcm.HttpConnectionManager, g *model.Gateway) {
	cfg.trace(m, byPolicy(g, traced{service: g.Name, namespace: g.Namespace, sampling: g.TraceSampling, outermost: true}))
}

// trace has m make a span of each request that is sampled, and one of each try, if there is a collector. The context comes and
// goes by the headers of W3C Trace Context.
func (cfg *Config) trace(m *hcm.HttpConnectionManager, of traced) {
	if cfg.Traces == nil && of.collector == "" {
		return
	}
	// The sampler decides, and an ID that a client gives its request stays as it is.
	m.RequestIdExtension = &hcm.RequestIDExtension{TypedConfig: typed(&uuid.UuidRequestIdConfig{PackTraceReason: no(), UseRequestIdForTraceSampling: no()})}
	attributes := map[string]string{"service.namespace": of.namespace, "k8s.node.name": cfg.Node}
	for name, value := range of.attributes {
		attributes[name] = value
	}
	m.Tracing = &hcm.HttpConnectionManager_Tracing{
		Provider: &trace.Tracing_Http{Name: "envoy.tracers.opentelemetry", ConfigType: &trace.Tracing_Http_TypedConfig{
			TypedConfig: typed(&trace.OpenTelemetryConfig{
				GrpcService: &core.GrpcService{
					TargetSpecifier: &core.GrpcService_EnvoyGrpc_{EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: cmp.Or(of.collector, clusterTraces)}},
					Timeout:         duration(connectTimeout),
				},
				ServiceName: of.service,
				ResourceDetectors: []*core.TypedExtensionConfig{extension("envoy.tracers.opentelemetry.resource_detectors.static_config",
					&detectors.StaticConfigResourceDetectorConfig{Attributes: attributes})},
				Sampler: sampler(cfg.percent(of.sampling), of.outermost),
			}),
		}},
		SpawnUpstreamSpan: yes(),
		Operation:         cmp.Or(of.operation, "%REQ(:METHOD)% %ROUTE_NAME%"),
		MaxPathTagLength:  number(maxSpanPath),
		CustomTags:        withURL(of.tags),
	}
}

// withURL adds http.url without the query, which may hold secrets, unless the tags have it.
func withURL(tags []*tag.CustomTag) []*tag.CustomTag {
	const url = "http.url"
	if slices.ContainsFunc(tags, func(t *tag.CustomTag) bool { return t.Tag == url }) {
		return tags
	}
	return append([]*tag.CustomTag{{Tag: url, Type: &tag.CustomTag_Value{Value: "%REQ(:SCHEME)%://%REQ(:AUTHORITY)%%PATH(NQ)%"}}}, tags...)
}

// percent returns how many requests begin a trace.
func (cfg *Config) percent(sampling *float64) float64 {
	switch {
	case sampling != nil:
		return *sampling
	case cfg.Traces != nil:
		return cfg.Traces.Sampling
	}
	return DefaultSampling
}

// sampler decides by the trace's ID, or as the caller has decided.
func sampler(percent float64, outermost bool) *core.TypedExtensionConfig {
	ratio := extension("envoy.tracers.opentelemetry.samplers.trace_id_ratio_based", &samplers.TraceIdRatioBasedSamplerConfig{
		SamplingPercentage: &typev3.FractionalPercent{Numerator: uint32(math.Round(percent * 10_000)), Denominator: typev3.FractionalPercent_MILLION},
	})
	if outermost {
		return ratio
	}
	return extension("envoy.tracers.opentelemetry.samplers.parent_based", &samplers.ParentBasedSamplerConfig{WrappedSampler: ratio})
}

// tracesCluster has the collector's endpoints.
func tracesCluster(b *builder) *built {
	t := b.cfg.Traces
	if t == nil {
		return nil
	}
	var all []*endpoint.LbEndpoint
	if row, ok := b.st.Endpoints.Get(b.snap, model.PortKey(t.Namespace, t.Service, t.Port, model.TCP)); ok {
		for _, e := range row.Backends {
			if !e.Terminating && !e.NotGranted {
				all = append(all, plainEndpoint(b.cfg, e))
			}
		}
	}
	c := newCluster(clusterTraces)
	c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}
	c.LoadAssignment = &endpoint.ClusterLoadAssignment{ClusterName: clusterTraces, Endpoints: []*endpoint.LocalityLbEndpoints{{LbEndpoints: all}}}
	c.TypedExtensionProtocolOptions = protocol(serviceProtocol(true, false))
	c.UpstreamBindConfig = anyAddress(b.cfg.GatewayNetNS)
	c.CircuitBreakers = fewExports()
	return &built{message: c}
}
