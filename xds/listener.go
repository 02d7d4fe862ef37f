package xds

import (
	"net/netip"
	"slices"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	origdst "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tcpproxy "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Listeners: those of local workloads, of Gateways, and the internal ones that wrap L7 connections in HBONE or pass them on to weft tunnel, send
// copies of requests on, refuse connections, have route tables tried, and divide connections by their server name. All go to Envoy by
// wildcard. Units are workloads (w:<key>), Gateways (g:<key>), Divisions by name (s:<key>) and "" for the constant ones.
var listenerKind = &kind{
	build: buildListener,
	units: func(b *builder) []string {
		units := []string{""}
		for w := range b.st.Workloads.By(b.snap, state.ByLocal, "true") {
			units = append(units, unitWorkload+w.Key())
		}
		for g := range b.st.Gateways.All(b.snap) {
			units = append(units, unitGateway+g.Key())
		}
		for d := range b.st.Divisions.By(b.snap, state.BySNI, "true") {
			units = append(units, unitDivision+d.Key())
		}
		return units
	},
	names: listenerNames,
	unitOf: func(st *state.State, k state.Key) (string, bool) {
		if key, ok := st.Workloads.Row(k); ok {
			return unitWorkload + key, true
		}
		if key, ok := st.Divisions.Row(k); ok {
			return unitDivision + key, true
		}
		key, ok := st.Gateways.Row(k)
		return unitGateway + key, ok
	},
	retained: outlivesIdentity,
	mode:     func(b *builder) string { return detection(b) + namesMode(b) },
	modeOf: func(st *state.State) []state.Key {
		return []state.Key{detectionKey(st), {Table: st.Services.ID(), Index: state.BySNI, Value: "true"}}
	},
}

// outlivesIdentity reports whether a listener or cluster by which peers reach a workload with an identity is kept though the
// workload is disabled now: Envoy would end the tunnels that peers have, after the drain time. New ones do not come, for
// peers that follow the change connect in the clear. What is kept goes with the workload, or with the agent.
func outlivesIdentity(b *builder, name string) bool {
	key, suffix, ok := cutWorkloadName(name)
	if !ok || suffix != inHBONE && suffix != inHTTP {
		return false
	}
	w, ok := b.st.Workloads.Get(b.snap, key)
	return ok && w.MTLS == model.MTLSDisabled && slices.Contains(ListenerNames(b.cfg.formerly(w)), name)
}

// formerly returns a disabled workload with the identity that it would have in another mode, and others as they are.
func (c *Config) formerly(w *model.Workload) *model.Workload {
	if w.MTLS != model.MTLSDisabled || w.Identity != "" || w.ServiceAccount == "" {
		return w
	}
	with := *w
	with.Identity = model.NewIdentity(c.TrustDomain, w.Namespace, w.ServiceAccount)
	return &with
}

const (
	unitWorkload = "w:"
	unitGateway  = "g:"
	unitDivision = "s:"
)

func listenerNames(b *builder, unit string) []string {
	switch {
	case unit == "":
		return []string{listenerOriginate, listenerTunnel, listenerMirror, listenerRefused, trialName}
	case unit[:2] == unitGateway:
		g, ok := b.st.Gateways.Get(b.snap, unit[2:])
		if !ok {
			return nil
		}
		return gatewayListenerNames(g)
	case unit[:2] == unitDivision:
		return sniListenerNames(b, unit[2:])
	}
	w, ok := b.st.Workloads.Get(b.snap, unit[2:])
	if !ok {
		return nil
	}
	names := ListenerNames(w)
	if len(names) > 0 && strings.Contains(b.mode, detecting) {
		names = append(names, workloadName(w, outDetect))
	}
	if len(names) > 0 && strings.Contains(b.mode, readingNames) {
		names = append(names, workloadName(w, outSNI))
	}
	return names
}

// ListenerNames returns the names of the listeners of a local workload: once Server.Accepted is true for all of them,
// Envoy listens in the workload's namespace. None for other workloads.
func ListenerNames(w *model.Workload) []string {
	if !w.Local || w.NetNS == "" || len(w.Addresses) == 0 {
		return nil
	}
	names := []string{workloadName(w, outHTTP), workloadName(w, outTCP)}
	if w.Identity != "" {
		names = append(names, workloadName(w, inHBONE))
	}
	if w.Policy != nil {
		names = append(names, workloadName(w, inPlain))
	}
	if terminates(w) {
		names = append(names, workloadName(w, inHTTP))
	}
	return names
}

func buildListener(b *builder, name string) *built {
	switch name {
	case listenerOriginate:
		return &built{message: originateListener(b.cfg)}
	case listenerTunnel:
		return &built{message: tunnelOriginateListener()}
	case listenerMirror:
		return &built{message: mirrorListener(b.cfg)}
	case listenerRefused:
		return &built{message: refusedListener()}
	case trialName:
		return &built{message: trialListener(b.cfg)}
	}
	if n, ok := parseDatagramsName(name); ok {
		return buildDatagramListener(b, name, n)
	}
	if n, ok := parseGatewayName(name); ok {
		return buildGatewayListener(b, name, n)
	}
	if key, ok := strings.CutPrefix(name, sniPrefix); ok {
		if l := buildSNIListener(b, name, key); l != nil {
			return l
		}
	}
	if key, suffix, ok := cutWorkloadName(name); ok {
		return buildWorkloadListener(b, name, key, suffix)
	}
	return nil
}

// buildWorkloadListener makes one of a local workload's listeners.
func buildWorkloadListener(b *builder, name, key, suffix string) *built {
	w, ok := b.st.Workloads.Get(b.snap, key)
	if !ok {
		return nil
	}
	netns, ok := b.netns(w.NetNS)
	if !ok {
		return nil
	}
	local := *w
	local.NetNS = netns
	w = &local
	objects := []model.ObjectVersion{podRef(key)}
	if suffix != outHTTP && suffix != outTCP && suffix != outDetect && suffix != outSNI {
		objects = append(objects, policyRefs(w)...)
	}
	former := b.cfg.formerly(w)
	for _, n := range append(ListenerNames(former), workloadName(w, outDetect), workloadName(w, outSNI)) {
		if n != name || len(w.Addresses) == 0 || !w.Local || w.NetNS == "" {
			continue
		}
		switch suffix {
		case outHTTP:
			return &built{message: b.cfg.limited(frugal(outHTTPListener(b.cfg, former))), objects: objects}
		case outTCP:
			return &built{message: b.cfg.limited(outTCPListener(b.cfg, former)), objects: objects}
		case outDetect:
			return &built{message: b.cfg.limited(outDetectListener(b.cfg, former)), objects: objects}
		case outSNI:
			return &built{message: b.cfg.limited(outSNIListener(b.cfg, former)), objects: objects}
		case inHBONE:
			return &built{message: b.cfg.limited(hboneListener(b.cfg, former)), objects: objects}
		case inPlain:
			return &built{message: b.cfg.limited(frugal(plainListener(b.cfg, w))), objects: objects}
		case inHTTP:
			return &built{message: inHTTPListener(b.cfg, former), objects: objects}
		}
	}
	return nil
}

// podListener listens at addresses in a workload's network namespace. All pods share statistics by statPrefix.
func podListener(w *model.Workload, suffix string, at []netip.AddrPort, direction core.TrafficDirection) *listener.Listener {
	l := &listener.Listener{
		Name:             workloadName(w, suffix),
		StatPrefix:       suffix,
		Address:          tcpAddress(at[0], w.NetNS),
		TrafficDirection: direction,
		// No listener filter waits for bytes, so a protocol in which the server speaks first works.
		ListenerFiltersTimeout: duration(0),
		// The addresses may come after the namespace. Envoy 1.40 stays in the namespace in which bind fails, and listens there
		// for Gateways from then on.
		Freebind:                             yes(),
		MaxConnectionsToAcceptPerSocketEvent: number(acceptedAtOnce),
	}
	for _, a := range at[1:] {
		l.AdditionalAddresses = append(l.AdditionalAddresses, &listener.AdditionalAddress{Address: tcpAddress(a, w.NetNS)})
	}
	return l
}

// loopbacks returns the loopback addresses of the families that the workload has.
func loopbacks(w *model.Workload, port uint16) []netip.AddrPort {
	at := []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)}
	for _, a := range w.Addresses {
		if a.Is6() {
			return append(at, netip.AddrPortFrom(netip.IPv6Loopback(), port))
		}
	}
	return at
}

func ownAddresses(w *model.Workload, port uint16) []netip.AddrPort {
	at := make([]netip.AddrPort, len(w.Addresses))
	for i, a := range w.Addresses {
		at[i] = netip.AddrPortFrom(a, port)
	}
	return at
}

func originalDst() *listener.ListenerFilter {
	return listenerFilter("envoy.filters.listener.original_dst", &origdst.OriginalDst{})
}

// outHTTPListener takes L7 connections of a workload: the original destination is the scope key, which leads to the
// route table, on demand. It is the same in all modes of the workload, because Envoy would end the connections of a listener
// that changes. The scope decides whether the identity is used.
func outHTTPListener(cfg *Config, w *model.Workload) *listener.Listener {
	l := podListener(w, outHTTP, loopbacks(w, PortHTTP), core.TrafficDirection_OUTBOUND)
	l.ListenerFilters = []*listener.ListenerFilter{originalDst()}
	l.FilterChains = []*listener.FilterChain{{Filters: requestsOf(cfg, w)}}
	return l
}

// requestsOf reads the requests of a connection of a workload.
func requestsOf(cfg *Config, w *model.Workload) []*listener.Filter {
	values := append(identityState(w.Key(), w.Identity, w.NetNS),
		setState(stateNamespace, factoryString, literal(w.Namespace), notShared))
	return []*listener.Filter{stateFilter(values), scopedHTTP(cfg, w)}
}

// outTCPListener takes connections to workloads with an identity: their bytes go over HBONE to the very address. It is the
// same while the workload is disabled, so that connections from before live on; the kernel hands no new ones over then.
func outTCPListener(cfg *Config, w *model.Workload) *listener.Listener {
	l := podListener(w, outTCP, loopbacks(w, PortTCP), core.TrafficDirection_OUTBOUND)
	l.ListenerFilters = []*listener.ListenerFilter{originalDst()}
	values := append(identityState(w.Key(), w.Identity, w.NetNS),
		setState(stateCluster, "", tcpPrefix+"%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", notShared))
	l.FilterChains = []*listener.FilterChain{{Filters: []*listener.Filter{
		stateFilter(values),
		tunnel(cfg, outTCP, clusterNone, "%DOWNSTREAM_LOCAL_ADDRESS%", true),
	}}}
	return l
}

// originateListener wraps what L7 clusters send to endpoints with an identity in HBONE. The endpoint's metadata say
// where to and whom to expect.
func originateListener(cfg *Config) *listener.Listener {
	return &listener.Listener{
		Name:              listenerOriginate,
		StatPrefix:        listenerOriginate,
		TrafficDirection:  core.TrafficDirection_OUTBOUND,
		ListenerSpecifier: internalSpecifier(),
		ListenerFilters:   []*listener.ListenerFilter{originalDst()},
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{
			networkStateOnce(stateSANs, "%DYNAMIC_METADATA("+metaWeft+":peer)%"),
			tunnel(cfg, listenerOriginate, clusterOriginate, "%DYNAMIC_METADATA("+metaOriginalDst+":local)%", false),
		}}},
	}
}

// internalSpecifier makes a listener one of connections that Envoy makes to itself, by the listener's name.
func internalSpecifier() *listener.Listener_InternalListener {
	return &listener.Listener_InternalListener{InternalListener: &listener.Listener_InternalListenerConfig{}}
}

func networkStateOnce(key, format string) *listener.Filter {
	return stateFilter([]*sfsValue{setState(key, "", format, once)})
}

// tunnel sends a connection's bytes through a CONNECT. It is asked for twice at most, for the pooled connection may be
// going away; tcp_proxy takes a policy's 403 for a failed connection too, and asks again. What may be repeated, the route
// repeats besides.
func tunnel(cfg *Config, statPrefix, clusterName, authority string, asked bool) *listener.Filter {
	p := &tcpproxy.TcpProxy{
		StatPrefix:         statPrefix,
		ClusterSpecifier:   &tcpproxy.TcpProxy_Cluster{Cluster: clusterName},
		IdleTimeout:        duration(0),
		MaxConnectAttempts: number(2),
		TunnelingConfig:    &tcpproxy.TcpProxy_TunnelingConfig{Hostname: authority},
		AccessLog:          cfg.tunnelLog(logOut),
		AccessLogOptions:   &tcpproxy.TcpProxy_TcpAccessLogOptions{FlushAccessLogOnConnected: true},
	}
	if cfg.AccessLog != nil {
		p.TunnelingConfig.HeadersToAdd = []*core.HeaderValueOption{{
			Header:       &core.HeaderValue{Key: headerStream, Value: streamID},
			AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}}
	}
	if asked {
		p.OnDemand = onDemand(cfg)
	}
	return networkFilter("envoy.filters.network.tcp_proxy", p)
}

// onDemand asks for the cluster of a connection when it comes.
func onDemand(cfg *Config) *tcpproxy.TcpProxy_OnDemand {
	return &tcpproxy.TcpProxy_OnDemand{OdcdsConfig: fromADS(), Timeout: duration(cfg.timeouts().agent)}
}
