package xds

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	proxyprotocol "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weft-mesh/weft/internal/model"
)

// Connections of a Gateway's TLSRoutes and TCPRoutes to workloads with an identity go by weft tunnel, where both nodes have
// one. HBONE would not do: an HTTP/2 stream ends in one piece, so a server that closes first resets its client, and what the
// client has not got is lost. Envoy connects to weft tunnel on the node's loopback, and says in a header where to.

const (
	matchTunnel   = "tunnel" // key in endpoints' envoy.transport_socket_match metadata
	metaProxyTLVs = "envoy.transport_sockets.proxy_protocol"
)

// tunnelOf returns what is known of weft tunnel on this node. Its port is 0 where it takes no connections of Envoy's.
func tunnelOf(b *builder) *model.Carried {
	if b.cfg.Tunnel {
		if row, ok := b.st.Carried.Get(b.snap, model.Tunnel.Key()); ok {
			return row
		}
	}
	return &model.Carried{}
}

// tunnels reports whether an endpoint can be reached by weft tunnel. Where a policy looks at requests, the connection must come
// to the Envoy there.
func tunnels(b *builder, e model.Endpoint) bool {
	w, ok := b.st.Workloads.Get(b.snap, e.Workload)
	return ok && (w.Local || b.st.NodeAccepts(b.snap, w.Node, model.TransportTunnel)) && !w.Policy.InspectsPort(e.Address.Port())
}

// loopbacksTaken are the addresses that the endpoints of a cluster have on the node's loopback. Envoy takes two endpoints of one
// address for the same one.
type loopbacksTaken map[netip.Addr]bool

// take gives an address of 127.0.0.0/8 to a name. It is the same each time, unless two names happen to want one.
func (l loopbacksTaken) take(name string) netip.Addr {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	for n := h.Sum32(); ; n++ {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], n)
		a[0] = 127
		if addr := netip.AddrFrom4(a); !l[addr] && n&0xffffff != 0 && n&0xffffff != 0xffffff {
			l[addr] = true
			return addr
		}
	}
}

// overTunnel makes endpoints of a backend that are reached by weft tunnel.
type overTunnel struct {
	port    uint16
	taken   loopbacksTaken
	backend string
	to      []string // where each of endpoints leads
	made    []*endpoint.LbEndpoint
}

func (o *overTunnel) endpoint(e model.Endpoint) *endpoint.LbEndpoint {
	to := e.Address.String()
	local := o.taken.take(o.backend + " " + to + " " + string(e.Identity))
	made := &endpoint.LbEndpoint{
		HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: tcpAddress(netip.AddrPortFrom(local, o.port), "")}},
		Metadata: &core.Metadata{FilterMetadata: map[string]*structpb.Struct{
			metaMatch: {Fields: map[string]*structpb.Value{matchTunnel: structpb.NewBoolValue(true)}},
		}},
	}
	o.to, o.made = append(o.to, to), append(o.made, made)
	return made
}

// direct says in the header of each endpoint where it leads, and which others weft tunnel tries where that does not answer. Envoy
// itself tries no other, for its own connection is there before the endpoint is asked.
func (o *overTunnel) direct() {
	for i, made := range o.made {
		tlvs := []*core.TlvEntry{{Type: model.ProxyDestination, Value: []byte(o.to[i])}}
		if others := otherEndpoints(o.to, i); others != "" {
			tlvs = append(tlvs, &core.TlvEntry{Type: model.ProxyOthers, Value: []byte(others)})
		}
		made.Metadata.TypedFilterMetadata = map[string]*anypb.Any{metaProxyTLVs: typed(&core.PerHostConfig{AddedTlvs: tlvs})}
	}
}

// socketsOverTunnel adds to socketsOver what endpoints by weft tunnel take.
func (cfg *Config) socketsOverTunnel(s *core.TransportSocket) []*cluster.Cluster_TransportSocketMatch {
	if !cfg.Tunnel {
		return socketsOver(s)
	}
	return append([]*cluster.Cluster_TransportSocketMatch{{
		Name:  matchTunnel,
		Match: &structpb.Struct{Fields: map[string]*structpb.Value{matchTunnel: structpb.NewBoolValue(true)}},
		TransportSocket: withHeader(s, &core.ProxyProtocolConfig{
			AddedTlvs: []*core.TlvEntry{stateTLV(model.ProxyOwner, stateOwner), stateTLV(model.ProxyIdentity, stateSecret)},
		}),
	}}, socketsOver(s)...)
}

// stateTLV says what filter state has.
func stateTLV(kind uint32, key string) *core.TlvEntry {
	return &core.TlvEntry{Type: kind, FormatString: formatted("%FILTER_STATE(" + key + ":PLAIN)%")}
}

// withHeader sends a header for weft tunnel before the bytes of a socket.
func withHeader(s *core.TransportSocket, header *core.ProxyProtocolConfig) *core.TransportSocket {
	header.Version = core.ProxyProtocolConfig_V2
	return transportSocket("envoy.transport_sockets.upstream_proxy_protocol", &proxyprotocol.ProxyProtocolUpstreamTransport{
		Config: header, TransportSocket: s,
	})
}
