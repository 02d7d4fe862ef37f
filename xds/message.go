package xds

import (
	"net/netip"
	"regexp"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	sfs "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	netsfs "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-mesh/weft/internal/model"
)

// kinds are the types that are served.
var kinds map[string]*kind

func init() { // not an initializer: builders name the types that they belong to
	kinds = map[string]*kind{
		TypeListener: listenerKind, TypeScope: scopeKind, TypeRoute: routeKind,
		TypeCluster: clusterKind, TypeEndpoint: endpointKind, TypeSecret: secretKind, TypeFilter: filterKind,
		TypeRuntime: runtimeKind,
	}
}

// typed packs a message. What goes in is made here, so that it can fail only on text that is not UTF-8; the
// resource around it then fails to encode and is reported by the cache.
func typed(m proto.Message) *anypb.Any {
	value, _ := proto.MarshalOptions{Deterministic: true, AllowPartial: true}.Marshal(m)
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: value}
}

func extension(name string, m proto.Message) *core.TypedExtensionConfig {
	return &core.TypedExtensionConfig{Name: name, TypedConfig: typed(m)}
}

func duration(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func yes() *wrapperspb.BoolValue { return wrapperspb.Bool(true) }

func no() *wrapperspb.BoolValue { return wrapperspb.Bool(false) }

func number(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }

// fromADS says that a resource comes by the stream that everything comes by.
func fromADS() *core.ConfigSource {
	return &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
}

// tcpAddress is an address in a network namespace; netns "" is Envoy's own.
func tcpAddress(a netip.AddrPort, netns string) *core.Address {
	return socketAddress(core.SocketAddress_TCP, a, netns)
}

// udpAddress is the same for datagrams.
func udpAddress(a netip.AddrPort, netns string) *core.Address {
	return socketAddress(core.SocketAddress_UDP, a, netns)
}

func socketAddress(p core.SocketAddress_Protocol, a netip.AddrPort, netns string) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Protocol:                 p,
		Address:                  a.Addr().String(),
		PortSpecifier:            &core.SocketAddress_PortValue{PortValue: uint32(a.Port())},
		NetworkNamespaceFilepath: netns,
	}}}
}

// internalAddress leads to an internal listener. id tells connections to different places apart.
func internalAddress(listenerName, id string) *core.Address {
	return &core.Address{Address: &core.Address_EnvoyInternalAddress{EnvoyInternalAddress: &core.EnvoyInternalAddress{
		AddressNameSpecifier: &core.EnvoyInternalAddress_ServerListenerName{ServerListenerName: listenerName},
		EndpointId:           id,
	}}}
}

func exactly(s string) *matcher.StringMatcher {
	return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: s}}
}

func startsWith(s string) *matcher.StringMatcher {
	return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Prefix{Prefix: s}}
}

func endsWith(s string) *matcher.StringMatcher {
	return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Suffix{Suffix: s}}
}

// matching compares with an RE2 expression, anchored at both ends (Envoy always matches the whole value).
func matching(re string) *matcher.StringMatcher {
	return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_SafeRegex{SafeRegex: regex(re)}}
}

func regex(re string) *matcher.RegexMatcher { return &matcher.RegexMatcher{Regex: re} }

// validRegex reports whether Envoy will take an expression. Both sides use the RE2 syntax.
func validRegex(re string) bool {
	_, err := regexp.Compile(re)
	return err == nil
}

// Keys of filter state. The first three are Envoy's own; weft.* are read by routes, policies and access logs.
const (
	stateSecret     = "envoy.tls.certificate_mappers.on_demand_secret"
	stateNetNS      = "envoy.network.upstream_bind_override.network_namespace"
	stateSANs       = "envoy.network.upstream_subject_alt_names"
	stateLocal      = "envoy.filters.listener.original_dst.local_ip"
	stateRemote     = "envoy.filters.listener.original_dst.remote_ip"
	stateCluster    = "envoy.tcp_proxy.cluster"
	stateNamespace  = "weft.namespace"  // the caller's, for consumer routes
	statePeer       = "weft.peer"       // the client's SPIFFE ID, for policies behind a terminated CONNECT
	stateOwner      = "weft.owner"      // whom a connection belongs to: <ns>/<pod>, or gateway/<ns>/<name>
	stateClient     = "weft.client"     // the application's end of a connection that has gone to another listener since
	stateConnection = "weft.connection" // tells connections to weft tunnel apart
	stateService    = "weft.service"    // and the address and port that it connected to

	factoryHashable = "envoy.hashable_string" // connection pools split by these
	factoryString   = "envoy.string"
)

// setState writes a value (with Envoy's command operators) into filter state. An empty factory is the key's own.
func setState(key, factory, format string, shared sfs.FilterStateValue_SharedWithUpstream) *sfs.FilterStateValue {
	return &sfs.FilterStateValue{
		Key:                &sfs.FilterStateValue_ObjectKey{ObjectKey: key},
		FactoryKey:         factory,
		Value:              &sfs.FilterStateValue_FormatString{FormatString: formatted(format)},
		SharedWithUpstream: shared,
	}
}

func formatted(format string) *core.SubstitutionFormatString {
	return &core.SubstitutionFormatString{
		Format: &core.SubstitutionFormatString_TextFormatSource{TextFormatSource: &core.DataSource{
			Specifier: &core.DataSource_InlineString{InlineString: format},
		}},
	}
}

const (
	transitive = sfs.FilterStateValue_TRANSITIVE
	once       = sfs.FilterStateValue_ONCE
	notShared  = sfs.FilterStateValue_NONE
)

// identityState is what all connections of a pod or Gateway carry: whose they are, which certificate they show and in
// which network namespace they are made.
func identityState(owner string, id model.Identity, netns string) []*sfs.FilterStateValue {
	values := []*sfs.FilterStateValue{setState(stateOwner, factoryString, literal(owner), transitive)}
	if id != "" {
		values = append(values, setState(stateSecret, factoryHashable, literal(string(id)), transitive))
	}
	if netns != "" {
		values = append(values, setState(stateNetNS, factoryHashable, literal(netns), transitive))
	}
	return values
}

func stateFilter(values []*sfs.FilterStateValue) *listener.Filter {
	return networkFilter("envoy.filters.network.set_filter_state", &netsfs.Config{OnNewConnection: values})
}

func networkFilter(name string, m proto.Message) *listener.Filter {
	return &listener.Filter{Name: name, ConfigType: &listener.Filter_TypedConfig{TypedConfig: typed(m)}}
}

func listenerFilter(name string, m proto.Message) *listener.ListenerFilter {
	return &listener.ListenerFilter{Name: name, ConfigType: &listener.ListenerFilter_TypedConfig{TypedConfig: typed(m)}}
}

// literal escapes text for where Envoy expands command operators.
func literal(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] == '%' {
			out = append(out, '%')
		}
		out = append(out, s[i])
	}
	return string(out)
}

func podRef(key string) model.ObjectVersion {
	ns, name := model.SplitKey(key)
	return model.ObjectVersion{ObjectRef: model.ObjectRef{Kind: "Pod", Namespace: ns, Name: name}}
}

func serviceRef(namespace, name string) model.ObjectVersion {
	return model.ObjectVersion{ObjectRef: model.ObjectRef{Kind: "Service", Namespace: namespace, Name: name}}
}

func gatewayRef(namespace, name string, generation int64) model.ObjectVersion {
	ref := model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "Gateway", Namespace: namespace, Name: name}
	return model.ObjectVersion{ObjectRef: ref, Generation: generation}
}
