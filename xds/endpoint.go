package xds

import (
	"slices"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weft-mesh/weft/internal/model"
)

// Metadata of endpoints that the internal listener reads.
const (
	metaOriginalDst = "envoy.filters.listener.original_dst" // "local": where the bytes are to go
	metaWeft        = "weft"
	metaIdentity    = "peer"  // in metaWeft: the SPIFFE ID that an endpoint must prove
	metaPeer        = "about" // in metaWeft: model.PeerTag of the endpoint
	metaMatch       = "envoy.transport_socket_match"
	metaBalance     = "envoy.lb" // "hash_key": what a client sticks to, whichever way it is reached
)

// The endpoints of a service's cluster have its name. They are there for every name, like the cluster.
var endpointKind = &kind{build: buildEndpoints}

func buildEndpoints(b *builder, name string) *built {
	if n, ok := parseStreamName(name); ok {
		return streamEndpoints(b, name, n)
	}
	if n, ok := parseDatagramsName(name); ok {
		return datagramEndpoints(b, name, n)
	}
	if key, ok := parseExportName(name); ok {
		return exportEndpoints(b, name, key)
	}
	n, ok := parseServiceName(name)
	if !ok {
		return nil
	}
	out := &endpoint.ClusterLoadAssignment{ClusterName: name}
	if list := serviceEndpoints(b, n); len(list) > 0 {
		out.Endpoints = localities(list...)
	}
	return &built{message: out, objects: []model.ObjectVersion{serviceRef(n.namespace, n.name)}}
}

// serviceEndpoints returns none where a BackendTLSPolicy cannot be followed.
func serviceEndpoints(b *builder, n serviceName) []*endpoint.LbEndpoint {
	if b.cfg.refuses(backendTLS(b, n.portKey())) {
		return nil
	}
	t := newByTunnel(b)
	list := rawEndpoints(b, n, func(e model.Endpoint) *endpoint.LbEndpoint {
		if t.process != "" && tunnels(b, e) {
			return t.endpoint(e)
		}
		return hboneEndpoint(b.cfg, e)
	})
	t.direct()
	return list
}

// way makes an endpoint with an identity one of Envoy's.
type way func(model.Endpoint) *endpoint.LbEndpoint

func rawEndpoints(b *builder, n serviceName, authenticated way) []*endpoint.LbEndpoint {
	e, ok := b.st.Endpoints.Get(b.snap, n.portKey())
	if !ok {
		return nil
	}
	var list []*endpoint.LbEndpoint
	for _, be := range serving(e.Backends) {
		if be.Identity != "" && !n.plain {
			list = append(list, authenticated(be))
		} else {
			list = append(list, plainEndpoint(b.cfg, be))
		}
	}
	return list
}

// serving leaves out endpoints that are not granted, and those that are terminating unless there is no other.
func serving(all []model.Endpoint) []model.Endpoint {
	all = slices.DeleteFunc(slices.Clone(all), func(e model.Endpoint) bool { return e.NotGranted })
	var live []model.Endpoint
	for _, e := range all {
		if !e.Terminating {
			live = append(live, e)
		}
	}
	if len(live) == 0 {
		return all
	}
	return live
}

func localities(e ...*endpoint.LbEndpoint) []*endpoint.LocalityLbEndpoints {
	return []*endpoint.LocalityLbEndpoints{{LbEndpoints: e}}
}

// plainEndpoint goes to an address in the clear.
func plainEndpoint(cfg *Config, e model.Endpoint) *endpoint.LbEndpoint {
	out := &endpoint.LbEndpoint{HostIdentifier: &endpoint.LbEndpoint_Endpoint{
		Endpoint: &endpoint.Endpoint{Address: tcpAddress(e.Address, "")},
	}}
	e.Identity = "" // nobody proves it
	if about := describeEndpoint(cfg, e); about != "" {
		out.Metadata = &core.Metadata{FilterMetadata: map[string]*structpb.Struct{metaWeft: text(metaPeer, about)}}
	}
	return out
}

// describeEndpoint returns what requests to an endpoint are counted by, or "".
func describeEndpoint(cfg *Config, e model.Endpoint) string {
	namespace, owner := e.CountedAs()
	if !cfg.RequestStats || namespace == "" {
		return ""
	}
	return model.PeerTag(namespace, owner, e.Identity)
}

func text(key, value string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{key: structpb.NewStringValue(value)}}
}

// hboneEndpoint goes through the internal listener that opens a CONNECT to it and expects its SPIFFE ID.
func hboneEndpoint(cfg *Config, e model.Endpoint) *endpoint.LbEndpoint {
	at := e.Address.String()
	made := authenticatedEndpoint(cfg, e, internalAddress(listenerOriginate, at))
	made.Metadata.FilterMetadata[metaOriginalDst] = text("local", at)
	return made
}

// authenticatedEndpoint is reached through an internal listener, which finds in its metadata whom to expect.
func authenticatedEndpoint(cfg *Config, e model.Endpoint, through *core.Address) *endpoint.LbEndpoint {
	peer := text(metaIdentity, string(e.Identity))
	if about := describeEndpoint(cfg, e); about != "" {
		peer.Fields[metaPeer] = structpb.NewStringValue(about)
	}
	return &endpoint.LbEndpoint{
		HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: through}},
		Metadata: &core.Metadata{FilterMetadata: map[string]*structpb.Struct{
			metaWeft:    peer,
			metaMatch:   {Fields: map[string]*structpb.Value{matchHBONE: structpb.NewBoolValue(true)}},
			metaBalance: text("hash_key", e.Address.String()),
		}},
	}
}
