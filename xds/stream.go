package xds

import (
	"strings"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsinspector "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	directresponse "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3"
	tcpproxy "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// Connections of TLSRoutes and TCPRoutes. A route is one cluster, which has a locality with a weight for each backend. So a
// change of backends or weights changes endpoints alone: a change of the listener would end connections.

const (
	streamPrefix      = "stream/"
	passthroughSuffix = "|passthrough"
	// listenerRefused takes the share of backends that are not there, and ends each connection. An address that refuses would
	// make Envoy try another backend.
	listenerRefused = "refused"
	refusedAfter    = 10 * time.Millisecond
	streamAttempts  = 3 // for an endpoint that does not answer
)

// streamName is a parsed name stream/<kind>/<ns>/<route>[|mesh][|plain][|passthrough][|cert=<ns>/<secret>] of a cluster.
type streamName struct {
	key   string // of the StreamRoute of Gateways
	plain bool
	// mesh is for connections of Services: Envoy makes those to the backends as the workload itself, whose TLS they carry.
	mesh bool
	// passthrough is for the TLS of clients: it goes to the backends as it is, whatever a BackendTLSPolicy says.
	passthrough bool
	certificate string // key
}

func (n streamName) String() string {
	s := streamPrefix + n.key
	if n.mesh {
		s += model.MeshSuffix
	}
	if n.plain {
		s += plainSuffix
	}
	if n.passthrough {
		s += passthroughSuffix
	}
	return s + certText(n.certificate)
}

func parseStreamName(s string) (streamName, bool) {
	rest, ok := strings.CutPrefix(s, streamPrefix)
	if !ok {
		return streamName{}, false
	}
	var n streamName
	if rest, n.certificate, ok = cutCertificate(rest); !ok {
		return streamName{}, false
	}
	rest, n.passthrough = strings.CutSuffix(rest, passthroughSuffix)
	rest, n.plain = strings.CutSuffix(rest, plainSuffix)
	n.key, n.mesh = strings.CutSuffix(rest, model.MeshSuffix)
	parts := strings.Split(n.key, "/")
	return n, len(parts) == 3 && parts[0] != "" && parts[1] != "" && parts[2] != "" && !strings.Contains(n.key, "|")
}

// StreamCluster is the name of a route's cluster, for Gateways with an identity or for Services.
func StreamCluster(r *model.StreamRoute) string {
	return streamName{key: model.StreamKey(r.Route), mesh: r.Mesh}.String()
}

// row is the key of the StreamRoute.
func (n streamName) row() string {
	if n.mesh {
		return n.key + model.MeshSuffix
	}
	return n.key
}

// streamCluster is there for every name, as that of a service is.
func streamCluster(b *builder, name string, n streamName) *built {
	c := endpointsCluster(name)
	c.CommonLbConfig = weightedLocalities()
	if n.mesh {
		c.UpstreamBindConfig.SocketOptions = asWorkload()
		return &built{message: c, objects: streamRefs(b, n)}
	}
	c.TransportSocketMatches = b.cfg.socketsOverTunnel(rawSocket())
	objects := streamRefs(b, n)
	var policies []*model.BackendTLS
	for _, be := range streamBackends(b, n) {
		if t := n.tls(b, be); t != nil {
			policies = append(policies, t)
			objects = append(objects, t.Policy)
		}
	}
	b.cfg.tlsMatches(c, policies, n.certificate)
	return &built{message: c, objects: objects}
}

// weightedLocalities makes a cluster choose a locality by its weight before an endpoint there.
func weightedLocalities() *cluster.Cluster_CommonLbConfig {
	return &cluster.Cluster_CommonLbConfig{
		LocalityConfigSpecifier: &cluster.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &cluster.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
		},
	}
}

// streamBackends returns what the connections are divided among.
func streamBackends(b *builder, n streamName) []model.Backend {
	if r, ok := b.st.StreamRoutes.Get(b.snap, n.row()); ok {
		return r.Backends
	}
	return nil
}

// tls returns how a backend is connected to; nil for as the bytes come.
func (n streamName) tls(b *builder, be model.Backend) *model.BackendTLS {
	if n.passthrough || n.mesh || be.Invalid {
		return nil
	}
	return backendTLS(b, model.PortKey(be.Namespace, be.Name, be.Port, model.TCP))
}

func streamRefs(b *builder, n streamName) []model.ObjectVersion {
	if r, ok := b.st.StreamRoutes.Get(b.snap, n.row()); ok {
		return []model.ObjectVersion{{ObjectRef: r.Route, Generation: r.Generation}}
	}
	return nil
}

func streamEndpoints(b *builder, name string, n streamName) *built {
	out := &endpoint.ClusterLoadAssignment{ClusterName: name}
	port, taken := tunnelOf(b).GatewayPort, loopbacksTaken{}
	out.Endpoints = divided(streamBackends(b, n), func(be model.Backend) []*endpoint.LbEndpoint {
		over := overTunnel{port: port, taken: taken, backend: be.Cluster()}
		list := backendEndpoints(b, be, n, func(e model.Endpoint) *endpoint.LbEndpoint {
			if port != 0 && tunnels(b, e) {
				return over.endpoint(e)
			}
			return hboneEndpoint(b.cfg, e)
		})
		over.direct()
		return list
	})
	return &built{message: out, objects: streamRefs(b, n)}
}

// divided returns a locality with the weight and the endpoints of each backend; if there is none, that of an invalid one.
func divided(backends []model.Backend, endpoints func(model.Backend) []*endpoint.LbEndpoint) []*endpoint.LocalityLbEndpoints {
	if len(backends) == 0 {
		backends = []model.Backend{{Invalid: true, Weight: 1}}
	}
	var out []*endpoint.LocalityLbEndpoints
	at := map[string]*endpoint.LocalityLbEndpoints{} // a backend may be listed twice
	for _, be := range backends {
		l := at[be.Cluster()]
		if l == nil {
			l = &endpoint.LocalityLbEndpoints{
				Locality:            &core.Locality{Region: be.Cluster()},
				LoadBalancingWeight: number(0),
				LbEndpoints:         endpoints(be),
			}
			at[be.Cluster()] = l
			out = append(out, l)
		}
		l.LoadBalancingWeight.Value += be.Weight
	}
	return out
}

// backendEndpoints returns those of a backend. One that has none keeps its share, which is refused. Envoy would take the same
// address in two localities for one host.
func backendEndpoints(b *builder, be model.Backend, n streamName, authenticated way) []*endpoint.LbEndpoint {
	var list []*endpoint.LbEndpoint
	t := n.tls(b, be)
	if !be.Invalid && !b.cfg.refuses(t) {
		list = rawEndpoints(b, serviceName{namespace: be.Namespace, name: be.Name, port: be.Port, plain: n.plain || n.mesh}, authenticated)
	}
	if t != nil {
		for _, e := range list {
			choosesTLS(e, t)
		}
	}
	if len(list) == 0 {
		return []*endpoint.LbEndpoint{{HostIdentifier: &endpoint.LbEndpoint_Endpoint{
			Endpoint: &endpoint.Endpoint{Address: internalAddress(listenerRefused, be.Cluster())},
		}}}
	}
	return list
}

// refusedListener ends connections once they are there. One that ended before would count as one that could not be made, for
// which another backend is tried.
func refusedListener() *listener.Listener {
	return &listener.Listener{
		Name:              listenerRefused,
		StatPrefix:        listenerRefused,
		ListenerSpecifier: internalSpecifier(),
		ListenerFilters: []*listener.ListenerFilter{
			listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspector.TlsInspector{}), // waits for bytes
		},
		ListenerFiltersTimeout: duration(refusedAfter),
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{
			networkFilter("envoy.filters.network.direct_response", &directresponse.Config{}),
		}}},
	}
}

// gatewayStream forwards a Gateway's connections to what a route divides them among.
func gatewayStream(cfg *Config, g *model.Gateway, s model.GatewayStream, passthrough bool) *listener.Filter {
	name := streamName{key: model.StreamKey(s.Route), plain: g.Identity == "", passthrough: passthrough}
	if !passthrough {
		name.certificate = g.BackendCertificate
	}
	return networkFilter("envoy.filters.network.tcp_proxy", &tcpproxy.TcpProxy{
		StatPrefix:         "gateway",
		ClusterSpecifier:   &tcpproxy.TcpProxy_Cluster{Cluster: name.String()},
		IdleTimeout:        duration(0),
		MaxConnectAttempts: number(streamAttempts),
		OnDemand:           onDemand(cfg),
	})
}

// streamChains returns a filter chain for each route of a listener. Names that an earlier listener of the port has are
// left out: Envoy refuses two chains that match alike.
func streamChains(b *builder, g *model.Gateway, p model.GatewayPort, gl model.GatewayListener, state *listener.Filter, seen map[string]bool) []*listener.FilterChain {
	var out []*listener.FilterChain
	for _, s := range gl.Streams {
		if seen[s.Hostname] {
			continue
		}
		seen[s.Hostname] = true
		chain := &listener.FilterChain{
			Name:    gl.Name + "/" + s.Hostname,
			Filters: []*listener.Filter{state, gatewayStream(b.cfg, g, s, p.TLS && len(gl.Certificates) == 0)},
		}
		if p.TLS {
			chain.FilterChainMatch = sniMatch(s.Hostname)
		}
		if len(gl.Certificates) > 0 {
			chain.TransportSocket = gatewayTLS(g, p, gl, streamProtocols(b, s.Route)...)
			chain.TransportSocketConnectTimeout = duration(b.cfg.timeouts().handshake)
		}
		out = append(out, chain)
	}
	return out
}

// streamProtocols returns the application protocols (RFC 7301) of a route whose TLS ends at the Gateway. The backend speaks with
// the client, so what it speaks is known only where the ports of all backends say HTTP/2. A client with which nothing is agreed
// on speaks what it would without TLS.
func streamProtocols(b *builder, route model.ObjectRef) []string {
	r, ok := b.st.StreamRoutes.Get(b.snap, model.StreamKey(route))
	if !ok {
		return nil
	}
	var http2 []string
	for _, to := range r.Backends {
		if to.Invalid {
			continue
		}
		svc, ok := b.st.Services.Get(b.snap, to.Namespace+"/"+to.Name)
		if !ok {
			return nil
		}
		if p, ok := svc.Port(to.Port); !ok || !isHTTP2(p.AppProtocol) {
			return nil
		}
		http2 = []string{"h2"}
	}
	return http2
}

// sniMatch matches TLS whose name is a host: exact, "*.suffix", or "" for all.
func sniMatch(host string) *listener.FilterChainMatch {
	m := &listener.FilterChainMatch{TransportProtocol: "tls"}
	if host != "" {
		m.ServerNames = []string{host}
	}
	return m
}
