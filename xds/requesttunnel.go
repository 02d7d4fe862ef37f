package xds

import (
	"cmp"
	"net/netip"
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	listenersfs "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/set_filter_state/v3"
	tcpproxy "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weft-mesh/weft/internal/model"
)

// Requests to endpoints with an identity go by weft tunnel where both nodes have one and no policy looks at them at the
// destination. Envoy's pooled connection leads to an internal listener, and from there to weft tunnel, with a header that says
// whose it is and where to. The pool itself cannot write that header: Envoy 1.40 has its values for TCP connections alone.

const (
	metaTo     = "to"     // in metaWeft: the endpoint, address:port
	metaOthers = "others" // in metaWeft: model.ProxyOthers
	// noAddress stands for both ends in the header, which has to have some. weft tunnel reads neither.
	noAddress = "0.0.0.0:0"
)

// tunnelOriginateListener passes the connections of L7 clusters on to weft tunnel.
func tunnelOriginateListener() *listener.Listener {
	return &listener.Listener{
		Name:              listenerTunnel,
		StatPrefix:        listenerTunnel,
		TrafficDirection:  core.TrafficDirection_OUTBOUND,
		ListenerSpecifier: internalSpecifier(),
		ListenerFilters: []*listener.ListenerFilter{
			listenerFilter("envoy.filters.listener.set_filter_state", &listenersfs.Config{OnAccept: []*sfsValue{
				setState(stateRemote, "", noAddress, notShared), setState(stateLocal, "", noAddress, notShared),
			}}),
			originalDst(),
		},
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{
			// Envoy's pool gives a connection to whoever waits first, and the header of each is that of whom it was made for. So each
			// has a pool of its own.
			stateFilter([]*sfsValue{setState(stateConnection, factoryHashable, "%CONNECTION_ID%", once)}),
			networkFilter("envoy.filters.network.tcp_proxy", &tcpproxy.TcpProxy{
				StatPrefix:       listenerTunnel,
				ClusterSpecifier: &tcpproxy.TcpProxy_Cluster{Cluster: clusterTunnel},
				IdleTimeout:      duration(0),
				ProxyProtocolTlvs: []*core.TlvEntry{
					stateTLV(model.ProxyOwner, stateOwner),
					stateTLV(model.ProxyIdentity, stateSecret),
					endpointTLV(model.ProxyDestination, metaTo),
					endpointTLV(model.ProxyPeer, metaIdentity),
					endpointTLV(model.ProxyOthers, metaOthers),
				},
			}),
		}}},
	}
}

// tunnelCluster leads to weft tunnel on this node.
func tunnelCluster(b *builder) *cluster.Cluster {
	c := newCluster(clusterTunnel)
	// Envoy makes the connection while it makes that to the internal listener, in the network namespace of a pod.
	c.UpstreamBindConfig = anyAddress(b.cfg.GatewayNetNS)
	c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}
	c.LoadAssignment = &endpoint.ClusterLoadAssignment{ClusterName: clusterTunnel}
	// While none is connected it is where one was: the next one takes the same port.
	if port := cmp.Or(tunnelOf(b).GatewayPort, b.cfg.TunnelPort); port != 0 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		c.LoadAssignment.Endpoints = localities(plainEndpoint(b.cfg, model.Endpoint{Address: at}))
	}
	c.TransportSocket = withHeader(rawSocket(), &core.ProxyProtocolConfig{
		PassThroughTlvs: &core.ProxyProtocolPassThroughTLVs{MatchType: core.ProxyProtocolPassThroughTLVs_INCLUDE_ALL},
	})
	return c
}

// endpointTLV says what the metadata of the endpoint have.
func endpointTLV(kind uint32, key string) *core.TlvEntry {
	return &core.TlvEntry{Type: kind, FormatString: formatted("%DYNAMIC_METADATA(" + metaWeft + ":" + key + ")%")}
}

// byTunnel makes endpoints of a Service that are reached by weft tunnel.
type byTunnel struct {
	cfg *Config
	// process is in the endpoints' addresses. When another weft tunnel takes over, Envoy takes its endpoints for others: it moves
	// to them with the next requests, and those under way end with the old one. It is "" where none takes requests: one of an
	// earlier version, which says no name, takes connections of Gateways alone.
	process string
	alike   map[model.Identity]*alike
}

func newByTunnel(b *builder) *byTunnel {
	t := &byTunnel{cfg: b.cfg, alike: map[model.Identity]*alike{}}
	if row := tunnelOf(b); row.GatewayPort != 0 {
		t.process = row.Process
	}
	return t
}

// alike are endpoints with one identity. weft tunnel may take another one of them than Envoy chose, and who reads what Envoy reports of
// the request must not be told of an identity that was not there.
type alike struct {
	to   []string
	made []*endpoint.LbEndpoint
}

func (t *byTunnel) endpoint(e model.Endpoint) *endpoint.LbEndpoint {
	to := e.Address.String()
	made := authenticatedEndpoint(t.cfg, e, internalAddress(listenerTunnel, to+"/"+t.process))
	made.Metadata.FilterMetadata[metaWeft].Fields[metaTo] = structpb.NewStringValue(to)
	a := t.alike[e.Identity]
	if a == nil {
		a = &alike{}
		t.alike[e.Identity] = a
	}
	a.to, a.made = append(a.to, to), append(a.made, made)
	return made
}

// direct says which other endpoints weft tunnel tries where one does not answer. Envoy itself tries none for a request that must not
// be repeated: it takes the request for sent when the internal connection is there.
func (t *byTunnel) direct() {
	for _, a := range t.alike {
		for i, made := range a.made {
			if others := otherEndpoints(a.to, i); others != "" {
				made.Metadata.FilterMetadata[metaWeft].Fields[metaOthers] = structpb.NewStringValue(others)
			}
		}
	}
}

// otherEndpoints returns those that are tried after the one at i, separated by commas: those that follow it, and of two the first one
// again, which may have been slow. "" if there is no other.
func otherEndpoints(all []string, i int) string {
	if len(all) == 1 {
		return ""
	}
	var others [model.MaxProxyOthers]string
	for k := range others {
		others[k] = all[(i+1+k)%len(all)]
	}
	return strings.Join(others[:], ",")
}
