package xds

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	metrics "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	nsoverride "github.com/envoyproxy/go-control-plane/envoy/extensions/local_address_selectors/filter_state_override/v3"
	internalup "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/internal_upstream/v3"
	rawbuffer "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	upstreams "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	metadata "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// connectTimeout bounds a connection to an application on the pod itself: there is no other to try, and one that is busy
	// may let a client wait.
	connectTimeout = 5 * time.Second
	// endpointTimeout bounds a connection to an endpoint of a Service. A request that was not sent yet goes to another
	// endpoint then (see retryPolicy). TCP itself would ask the same one again after 1 s.
	endpointTimeout = time.Second
	// hboneConnectTimeout bounds TCP, TLS, and the wait for the certificate of this side, which the agent is asked for.
	hboneConnectTimeout = time.Second
	// idleTunnel ends pooled HBONE connections that nobody uses: they hold the network namespace of their pod.
	idleTunnel = time.Minute
	// pooledTime is how long a connection to an endpoint takes new requests: less than a process of the mesh at the other end waits
	// for those that it has when another one takes over (--parent-shutdown-time).
	pooledTime = 4 * time.Minute
	// forgetDestinations is how often a cluster that takes any destination forgets those that no connection uses. Clients
	// choose the ports, Envoy copies the list of destinations whenever one is added, and so a sweep of a pod's ports takes
	// quadratic time in what is not forgotten.
	forgetDestinations = 250 * time.Millisecond
)

// Clusters. Envoy asks by name for those of services and pod addresses; the wildcard holds the few constant ones, those that
// lead to the internal listeners of workloads whose policy looks at requests, those of Gateways' UDP ports, and those of their
// collectors. Units are
// workloads (<key>), Gateways (g:<key>) and "" for the constant ones.
var clusterKind = &kind{
	build: buildCluster,
	units: func(b *builder) []string {
		units := []string{""}
		for w := range b.st.Workloads.By(b.snap, state.ByLocal, "true") {
			units = append(units, w.Key())
		}
		for g := range b.st.Gateways.All(b.snap) {
			units = append(units, unitGateway+g.Key())
		}
		return units
	},
	names: func(b *builder, unit string) []string {
		if unit == "" {
			names := []string{clusterOriginate, clusterTunnel, clusterIdentities, clusterConnect, clusterInbound, clusterInboundHTTP, clusterMirror, clusterBytes}
			if b.cfg.Traces != nil {
				names = append(names, clusterTraces)
			}
			return names
		}
		if key, ok := strings.CutPrefix(unit, unitGateway); ok {
			if g, ok := b.st.Gateways.Get(b.snap, key); ok {
				return append(datagramNames(g), ExportClusters(g)...)
			}
			return nil
		}
		if w, ok := b.st.Workloads.Get(b.snap, unit); ok && terminates(w) {
			return []string{workloadName(w, inHTTP)}
		}
		return nil
	},
	unitOf: func(st *state.State, k state.Key) (string, bool) {
		if key, ok := st.Workloads.Row(k); ok {
			return key, true
		}
		key, ok := st.Gateways.Row(k)
		return unitGateway + key, ok
	},
	retained: outlivesRequests,
	// A pod that loses its identity is still called by connections that the kernel handed over before: Envoy would let
	// them wait for a cluster that does not come. They find the identity that they were to find, or fail.
	frozen: func(name string) bool { _, ok := parseTCPCluster(name); return ok },
}

func buildCluster(b *builder, name string) *built {
	switch name {
	case clusterOriginate:
		return &built{message: originateCluster(b.cfg.TrustDomain)}
	case clusterTunnel:
		return &built{message: tunnelCluster(b)}
	case clusterIdentities:
		return &built{message: identitiesCluster(b)}
	case clusterMirror:
		return &built{message: mirrorToListener()}
	case clusterTraces:
		return tracesCluster(b)
	case clusterConnect:
		return &built{message: connectCluster(name)}
	case clusterInbound:
		return &built{message: originalDestination(name, nil)}
	case clusterBytes:
		return &built{message: bytesCluster(name)}
	case clusterInboundHTTP:
		c := originalDestination(name, nil)
		c.PerConnectionBufferLimitBytes = number(connectionBuffer)
		c.TypedExtensionProtocolOptions = protocol(serviceProtocol(false, false))
		return &built{message: c}
	}
	if n, ok := parseServiceName(name); ok {
		return serviceCluster(b, name, n)
	}
	if n, ok := parseDatagramsName(name); ok {
		return datagramCluster(b, name, n)
	}
	if n, ok := parseStreamName(name); ok {
		return streamCluster(b, name, n)
	}
	if key, ok := parseExportName(name); ok {
		return exportCluster(b, name, key)
	}
	if a, ok := parseTCPCluster(name); ok {
		return podCluster(b, name, a)
	}
	if at, caller, ok := parseSNICluster(name); ok {
		return sniCluster(b, name, at, caller)
	}
	if key, suffix, ok := cutWorkloadName(name); ok && suffix == inHTTP {
		return inHTTPCluster(b, name, key)
	}
	return nil
}

// newCluster has what all clusters have in common: no hidden limits, no statistics of its own, dead peers noticed.
func newCluster(name string) *cluster.Cluster {
	unlimited := func(p core.RoutingPriority) *cluster.CircuitBreakers_Thresholds {
		most := number(math.MaxUint32)
		return &cluster.CircuitBreakers_Thresholds{
			Priority: p, MaxConnections: most, MaxPendingRequests: most, MaxRequests: most, MaxRetries: most,
		}
	}
	return &cluster.Cluster{
		Name:           name,
		AltStatName:    "mesh",
		StatsMatcher:   &metrics.StatsMatcher{StatsMatcher: &metrics.StatsMatcher_RejectAll{RejectAll: true}},
		ConnectTimeout: duration(connectTimeout),
		CircuitBreakers: &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{
			unlimited(core.RoutingPriority_DEFAULT), unlimited(core.RoutingPriority_HIGH),
		}},
		UpstreamConnectionOptions: &cluster.UpstreamConnectionOptions{TcpKeepalive: &core.TcpKeepalive{
			KeepaliveProbes: number(3), KeepaliveTime: number(60), KeepaliveInterval: number(10),
		}},
		UpstreamBindConfig: inNamespace(),
	}
}

// inNamespace makes upstream connections in the network namespace that the filter state names, from any address.
func inNamespace() *core.BindConfig {
	c := anyAddress("")
	c.LocalAddressSelector = extension("envoy.upstream.local_address_selector.filter_state_override", &nsoverride.Config{})
	return c
}

// anyAddress makes upstream connections from any address of a network namespace; netns "" is Envoy's own.
func anyAddress(netns string) *core.BindConfig {
	from := func(a string) *core.SocketAddress {
		return &core.SocketAddress{Address: a, PortSpecifier: &core.SocketAddress_PortValue{}, NetworkNamespaceFilepath: netns}
	}
	return &core.BindConfig{SourceAddress: from("0.0.0.0"), ExtraSourceAddresses: []*core.ExtraSourceAddress{{Address: from("::")}}}
}

func originalDestination(name string, lb *cluster.Cluster_OriginalDstLbConfig) *cluster.Cluster {
	c := newCluster(name)
	c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_ORIGINAL_DST}
	c.CleanupInterval = duration(forgetDestinations)
	c.LbPolicy = cluster.Cluster_CLUSTER_PROVIDED
	if lb != nil {
		c.LbConfig = &cluster.Cluster_OriginalDstLbConfig_{OriginalDstLbConfig: lb}
	}
	return c
}

// connectCluster leads to the address that a CONNECT names, which its route has checked: it is one of the workload's own.
func connectCluster(name string) *cluster.Cluster {
	return originalDestination(name, &cluster.Cluster_OriginalDstLbConfig{UseHttpHeader: true, HttpHeaderName: ":authority"})
}

// originateCluster is the way out of the internal listener: HBONE to the address that the endpoint's metadata gave
// the connection. Whom to expect there is in filter state; the trust domain is asked for besides.
func originateCluster(trustDomain string) *cluster.Cluster {
	c := originalDestination(clusterOriginate, &cluster.Cluster_OriginalDstLbConfig{UpstreamPortOverride: number(PortHBONE)})
	return overHBONE(c, upstreamTLS(startsWith(spiffePrefix+trustDomain+"/")))
}

// identitiesCluster makes Envoy fetch the SVIDs of the workloads and Gateways here as soon as there are any, so that nobody's first
// connection waits for one, or fails because no agent runs.
func identitiesCluster(b *builder) *cluster.Cluster {
	var ids []string
	for w := range b.st.Workloads.By(b.snap, state.ByLocal, "true") {
		ids = append(ids, string(w.Identity))
	}
	for g := range b.st.Gateways.All(b.snap) {
		ids = append(ids, string(g.Identity))
	}
	slices.Sort(ids)
	ids = slices.DeleteFunc(slices.Compact(ids), func(id string) bool { return id == "" })
	c := newCluster(clusterIdentities)
	c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}
	c.LoadAssignment = &endpoint.ClusterLoadAssignment{ClusterName: clusterIdentities}
	c.TransportSocket = upstreamTLS(startsWith(spiffePrefix+b.cfg.TrustDomain+"/"), ids...)
	return c
}

func overHBONE(c *cluster.Cluster, tls *core.TransportSocket) *cluster.Cluster {
	c.TransportSocket = tls
	c.ConnectTimeout = duration(hboneConnectTimeout)
	c.TypedExtensionProtocolOptions = protocol(&upstreams.HttpProtocolOptions{
		CommonHttpProtocolOptions: &core.HttpProtocolOptions{IdleTimeout: duration(idleTunnel)},
		UpstreamProtocolOptions: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: tunnelHTTP2(),
				},
			},
		},
	})
	return c
}

// podCluster leads to all ports of a pod's address. It has the one SPIFFE ID that the pod with this address must show.
func podCluster(b *builder, name string, a netip.Addr) *built {
	for w := range b.st.Workloads.By(b.snap, state.ByAddress, a.String()) {
		if w.Identity == "" {
			continue
		}
		c := newCluster(name)
		c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}
		c.LoadAssignment = &endpoint.ClusterLoadAssignment{
			ClusterName: name,
			Endpoints:   localities(plainEndpoint(b.cfg, model.Endpoint{Address: netip.AddrPortFrom(a, PortHBONE)})),
		}
		return &built{message: overHBONE(c, upstreamTLS(exactly(string(w.Identity)))), objects: []model.ObjectVersion{podRef(w.Key())}}
	}
	return nil
}

// serviceCluster is the way to a service's endpoints. It is there for every name, with no endpoints if need be: Envoy
// must never wait for a cluster that a route names.
func serviceCluster(b *builder, name string, n serviceName) *built {
	c := endpointsCluster(name)
	h2c := n.protocol == grpcSuffix
	svc, ok := b.st.Services.Get(b.snap, n.key())
	if ok {
		if p, ok := svc.Port(n.port); ok && isHTTP2(p.AppProtocol) {
			h2c = true
		}
		if svc.Affinity > 0 {
			c.LbPolicy = cluster.Cluster_MAGLEV
		}
	}
	c.PerConnectionBufferLimitBytes = number(connectionBuffer)
	c.TypedExtensionProtocolOptions = protocol(serviceProtocol(h2c, n.protocol == httpSuffix))
	objects := []model.ObjectVersion{serviceRef(n.namespace, n.name)}
	if t := backendTLS(b, n.portKey()); t != nil {
		b.cfg.originates(c, t, n.certificate)
		objects = append(objects, t.Policy)
	}
	return &built{message: c, objects: objects}
}

// endpointsCluster leads to the endpoints of its name, to those with an identity by weft tunnel or HBONE.
func endpointsCluster(name string) *cluster.Cluster {
	c := newCluster(name)
	c.ConnectTimeout = duration(endpointTimeout)
	c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_EDS}
	c.EdsClusterConfig = &cluster.Cluster_EdsClusterConfig{EdsConfig: fromADS()}
	c.LbPolicy = cluster.Cluster_LEAST_REQUEST
	c.CommonLbConfig = &cluster.Cluster_CommonLbConfig{LocalityConfigSpecifier: nil}
	c.TransportSocketMatches = socketsOver(rawSocket())
	return c
}

// isHTTP2 reports whether an appProtocol means HTTP/2 without TLS.
func isHTTP2(appProtocol string) bool {
	switch appProtocol {
	case "kubernetes.io/h2c", "h2c", "http2", "grpc":
		return true
	}
	return false
}

// serviceProtocol: HTTP/2 where the service says so; else what the client speaks, as it would without a mesh; but
// HTTP/1.1 behind a Gateway, whose clients choose HTTP/2 by TLS and know nothing of the backend.
func serviceProtocol(h2c, http1 bool) *upstreams.HttpProtocolOptions {
	o := &upstreams.HttpProtocolOptions{CommonHttpProtocolOptions: &core.HttpProtocolOptions{
		MaxHeadersCount: number(maxHeaders), MaxResponseHeadersKb: number(maxHeadersKB), MaxConnectionDuration: duration(pooledTime),
	}}
	h1 := &core.Http1ProtocolOptions{EnableTrailers: true}
	h2 := serverHTTP2()
	explicit := func(c *upstreams.HttpProtocolOptions_ExplicitHttpConfig) {
		o.UpstreamProtocolOptions = &upstreams.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: c}
	}
	switch {
	case h2c:
		explicit(&upstreams.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: h2},
		})
	case http1:
		explicit(&upstreams.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: h1},
		})
	default:
		o.UpstreamProtocolOptions = &upstreams.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &upstreams.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions: h1, Http2ProtocolOptions: h2,
			},
		}
	}
	return o
}

func protocol(o *upstreams.HttpProtocolOptions) map[string]*anypb.Any {
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(o)}
}

// tunnelHTTP2 notices dead tunnels by PING.
func tunnelHTTP2() *core.Http2ProtocolOptions {
	return &core.Http2ProtocolOptions{
		AllowConnect:        true,
		ConnectionKeepalive: &core.KeepaliveSettings{Interval: duration(30 * time.Second), Timeout: duration(10 * time.Second)},
	}
}

// outlivesRequests reports whether a cluster is kept that led to a workload's internal listener. Tunnels from the time when
// the policy looked at requests live on for the drain time, and have its name in their routes.
func outlivesRequests(b *builder, name string) bool {
	key, suffix, ok := cutWorkloadName(name)
	if !ok || suffix != inHTTP {
		return false
	}
	w, ok := b.st.Workloads.Get(b.snap, key)
	return ok && w.Local
}

// inHTTPCluster leads from a terminated CONNECT to the workload's internal listener, filter state in hand. Where the policy
// does not look at requests any more it leads to the application, as for a CONNECT that is not terminated.
func inHTTPCluster(b *builder, name, key string) *built {
	w, ok := b.st.Workloads.Get(b.snap, key)
	if !ok || !w.Local {
		return nil
	}
	if !terminates(b.cfg.formerly(w)) {
		return &built{message: connectCluster(name), objects: []model.ObjectVersion{podRef(key)}}
	}
	return &built{message: toInternal(name, name), objects: []model.ObjectVersion{podRef(key)}}
}

const matchHBONE = "hbone" // key in endpoints' envoy.transport_socket_match metadata

// socketsOver hands endpoints with an identity to the internal listener with their metadata, others to the wire. What is sent
// goes through the socket before.
func socketsOver(s *core.TransportSocket) []*cluster.Cluster_TransportSocketMatch {
	return []*cluster.Cluster_TransportSocketMatch{{
		Name:            "hbone",
		Match:           &structpb.Struct{Fields: map[string]*structpb.Value{matchHBONE: structpb.NewBoolValue(true)}},
		TransportSocket: throughInternal(s, metaOriginalDst, metaWeft),
	}, {
		Name: "plain", Match: &structpb.Struct{Fields: map[string]*structpb.Value{}}, TransportSocket: s,
	}}
}

// throughInternal passes filter state, and the metadata of the endpoint that is named, to an internal listener.
func throughInternal(inner *core.TransportSocket, names ...string) *core.TransportSocket {
	t := &internalup.InternalUpstreamTransport{TransportSocket: inner}
	for _, n := range names {
		t.PassthroughMetadata = append(t.PassthroughMetadata, &internalup.InternalUpstreamTransport_MetadataValueSource{
			Kind: &metadata.MetadataKind{Kind: &metadata.MetadataKind_Host_{Host: &metadata.MetadataKind_Host{}}},
			Name: n,
		})
	}
	return transportSocket("envoy.transport_sockets.internal_upstream", t)
}

func rawSocket() *core.TransportSocket {
	return transportSocket("envoy.transport_sockets.raw_buffer", &rawbuffer.RawBuffer{})
}

func transportSocket(name string, m proto.Message) *core.TransportSocket {
	return &core.TransportSocket{Name: name, ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: typed(m)}}
}
