package xds

import (
	"net/netip"
	"strings"
	"time"

	xdscore "github.com/cncf/xds/go/xds/core/v3"
	matcher "github.com/cncf/xds/go/xds/type/matcher/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	udpproxy "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/udp/udp_proxy/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/model"
)

// Datagrams of UDPRoutes. A UDP port of a Gateway is a listener and a cluster of one name, both served by wildcard: Envoy's
// udp_proxy asks for no cluster on demand. The cluster is the port's and not the route's, because its circuit breaker bounds
// what clients of the port can take. Routes and backends change its endpoints alone: another listener or cluster would end all
// sessions.
//
// A session is what one address and port of a client has with one backend. It is bound to a socket of its own towards the
// backend, so that an answer finds its client.

const (
	gatewayUDPPrefix = "gateway-udp/"
	// fewSessions are those of a port before the node's limits have come, which are sent first.
	fewSessions = 100
	// datagramSize is the largest datagram that is taken, from a client or a backend. UDP over IP carries no larger one.
	datagramSize = 65_535
	// defaultSessions are those of the node, if the configuration has none.
	defaultSessions = 25_000
)

// datagramsName is a parsed name gateway-udp/<ns>/<name>/<port>.
type datagramsName struct {
	namespace, name string
	port            uint16
}

func (n datagramsName) key() string { return model.Key(n.namespace, n.name) }

func (n datagramsName) String() string { return model.GatewayDatagrams(n.namespace, n.name, n.port) }

// parseDatagramsName accepts exactly what String gives.
func parseDatagramsName(s string) (datagramsName, bool) {
	rest, ok := strings.CutPrefix(s, gatewayUDPPrefix)
	if !ok {
		return datagramsName{}, false
	}
	n, ok := parseGatewayName(gatewayPrefix + rest)
	return datagramsName{n.namespace, n.name, n.port}, ok && n.listener == "" && !n.plain
}

// datagramNames returns the names of a Gateway's UDP ports that have a route.
func datagramNames(g *model.Gateway) []string {
	if len(g.Addresses) == 0 {
		return nil
	}
	var names []string
	for _, p := range g.Ports {
		if p.UDP && len(p.Listeners) > 0 {
			names = append(names, model.GatewayDatagrams(g.Namespace, g.Name, p.Port))
		}
	}
	return names
}

// datagramPort finds a UDP port that has a route.
func datagramPort(b *builder, n datagramsName) (*model.Gateway, *model.GatewayPort) {
	g, ok := b.st.Gateways.Get(b.snap, n.key())
	if !ok || len(g.Addresses) == 0 {
		return nil, nil
	}
	for i, p := range g.Ports {
		if p.UDP && p.Port == n.port && len(p.Listeners) > 0 && len(p.Listeners[0].Streams) > 0 {
			return g, &g.Ports[i]
		}
	}
	return nil, nil
}

func buildDatagramListener(b *builder, name string, n datagramsName) *built {
	g, p := datagramPort(b, n)
	if g == nil {
		return nil
	}
	l := &listener.Listener{
		Name: name, StatPrefix: "gateway", TrafficDirection: core.TrafficDirection_INBOUND, Freebind: yes(),
		Address:           udpAddress(netip.AddrPortFrom(g.Addresses[0], p.Port), b.cfg.GatewayNetNS),
		UdpListenerConfig: &listener.UdpListenerConfig{DownstreamSocketConfig: datagramSocket()},
		ListenerFilters: []*listener.ListenerFilter{listenerFilter("envoy.filters.udp_listener.udp_proxy", &udpproxy.UdpProxyConfig{
			StatPrefix: "gateway", IdleTimeout: duration(b.cfg.timeouts().sessions), UpstreamSocketConfig: datagramSocket(),
			RouteSpecifier: &udpproxy.UdpProxyConfig_Matcher{Matcher: &matcher.Matcher{
				OnNoMatch: &matcher.Matcher_OnMatch{OnMatch: &matcher.Matcher_OnMatch_Action{
					Action: &xdscore.TypedExtensionConfig{Name: "route", TypedConfig: typed(&udpproxy.Route{Cluster: name})},
				}},
			}},
		})},
	}
	for _, a := range g.Addresses[1:] {
		l.AdditionalAddresses = append(l.AdditionalAddresses, &listener.AdditionalAddress{
			Address: udpAddress(netip.AddrPortFrom(a, p.Port), b.cfg.GatewayNetNS),
		})
	}
	return &built{message: l, objects: p.Owners(gatewayRef(g.Namespace, g.Name, g.Generation))}
}

func datagramSocket() *core.UdpSocketConfig {
	return &core.UdpSocketConfig{MaxRxDatagramSize: wrapperspb.UInt64(datagramSize)}
}

// datagramCluster divides sessions among backends by the weights of localities, as streamCluster does connections.
func datagramCluster(b *builder, name string, n datagramsName) *built {
	g, p := datagramPort(b, n)
	if g == nil {
		return nil
	}
	c := newCluster(name)
	c.UpstreamBindConfig, c.UpstreamConnectionOptions = nil, nil // they are for TCP
	c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_EDS}
	c.EdsClusterConfig = &cluster.Cluster_EdsClusterConfig{EdsConfig: fromADS()}
	c.CommonLbConfig = weightedLocalities()
	c.CircuitBreakers = &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{{MaxConnections: number(fewSessions)}}}
	return &built{message: c, objects: p.Owners(gatewayRef(g.Namespace, g.Name, g.Generation))}
}

func datagramEndpoints(b *builder, name string, n datagramsName) *built {
	out := &endpoint.ClusterLoadAssignment{ClusterName: name}
	g, p := datagramPort(b, n)
	if g == nil {
		return &built{message: out}
	}
	r, ok := b.st.StreamRoutes.Get(b.snap, model.StreamKey(p.Listeners[0].Streams[0].Route))
	if !ok {
		r = &model.StreamRoute{}
	}
	out.Endpoints = divided(r.Backends, func(be model.Backend) []*endpoint.LbEndpoint { return datagramBackend(b, be) })
	for i, l := range out.Endpoints {
		if len(l.LbEndpoints) == 0 {
			l.LbEndpoints = []*endpoint.LbEndpoint{refusedDatagrams(i)}
		}
	}
	objects := p.Owners(gatewayRef(g.Namespace, g.Name, g.Generation))
	if ok {
		objects = append(objects, model.ObjectVersion{ObjectRef: r.Route, Generation: r.Generation})
	}
	return &built{message: out, objects: objects}
}

// datagramBackend returns the endpoints of a Service's UDP port. They are sent datagrams in the clear whatever their mode is,
// as the kernel does for the Service: there is no mTLS for datagrams.
func datagramBackend(b *builder, be model.Backend) []*endpoint.LbEndpoint {
	e, ok := b.st.Endpoints.Get(b.snap, model.PortKey(be.Namespace, be.Name, be.Port, model.UDP))
	if be.Invalid || !ok {
		return nil
	}
	var list []*endpoint.LbEndpoint
	for _, s := range serving(e.Backends) {
		list = append(list, datagramEndpoint(s.Address))
	}
	return list
}

// refusedDatagrams takes the share of a backend that is not there: the kernel refuses what is sent to port 0, which nobody can
// have. Envoy takes the same address in two localities for one host, so each has its own.
func refusedDatagrams(locality int) *endpoint.LbEndpoint {
	return datagramEndpoint(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + locality)}), 0))
}

func datagramEndpoint(a netip.AddrPort) *endpoint.LbEndpoint {
	return &endpoint.LbEndpoint{HostIdentifier: &endpoint.LbEndpoint_Endpoint{
		Endpoint: &endpoint.Endpoint{Address: udpAddress(a, "")},
	}}
}

// sessionShare is what each of n UDP ports of a namespace may have of the node's sessions, if so many namespaces have such
// ports. No namespace has more than half, and all of them together have no more than there are, because each session holds an
// open file. A change ends no session.
func (c *Config) sessionShare(n, namespaces int) uint64 {
	all := c.Sessions
	if all == 0 {
		all = defaultSessions
	}
	return max(all/uint64(max(namespaces, 2))/uint64(n), 1)
}

// sessionIdle is how long a session without a datagram in either direction lives. It is longer than the interval at which
// protocols keep the mappings of NATs alive (RFC 5626, 4.4.2: 24 to 29 s), and short because each client with one question, as
// those of DNS, takes a session for that time.
const sessionIdle = time.Minute
