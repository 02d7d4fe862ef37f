package xds

import (
	"net/netip"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspector "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	direct "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3"
	tcpproxy "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Connections to a Service port that is L7 and does not say that it speaks HTTP (model.ServicePort.Detect). A listener of their
// own reads their first bytes. What begins as a request or as HTTP/2 does takes the way of requests. All else Envoy connects to
// the Service, as bytes: at once if the first bytes are not HTTP's, and after timeouts.firstBytes if no line comes, because the
// server may be the one that speaks first.
//
// Envoy's connection to the Service has the mark model.BytesMark. The kernel's programs treat it as the workload's own to a port
// without routes: they choose the endpoint, and authenticate it by weft tunnel or HBONE, or refuse it.

// detecting is the mode of listeners while a Service needs detection. Without one, Envoy is spared a listener for each pod.
const detecting = "d"

func detection(b *builder) string {
	for range b.st.Services.By(b.snap, state.ByDetect, "true") {
		return detecting
	}
	return ""
}

func detectionKey(st *state.State) state.Key {
	return state.Key{Table: st.Services.ID(), Index: state.ByDetect, Value: "true"}
}

// inspections is how often a connection is inspected. Envoy's filter gives up if it is called without new bytes, as happens now and
// then while a first line comes in pieces. The next filter begins anew. Of 400 requests of single bytes without a pause one filter
// missed 12, three missed 11, eight missed none.
const inspections = 8

// outDetectListener takes connections of a workload to L7 ports that may or may not speak HTTP. Like outHTTPListener it is the
// same in all modes of the workload.
func outDetectListener(cfg *Config, w *model.Workload) *listener.Listener {
	at := loopbacks(w, PortDetect)
	l := podListener(w, outDetect, at, core.TrafficDirection_OUTBOUND)
	l.ListenerFilters = []*listener.ListenerFilter{originalDst()}
	for range inspections {
		l.ListenerFilters = append(l.ListenerFilters, listenerFilter("envoy.filters.listener.http_inspector", &httpinspector.HttpInspector{}))
	}
	l.ListenerFiltersTimeout = duration(cfg.timeouts().firstBytes)
	l.ContinueOnListenerFiltersTimeout = true
	l.FilterChains = []*listener.FilterChain{closedChain(at), {
		Name:             "http",
		FilterChainMatch: &listener.FilterChainMatch{ApplicationProtocols: []string{"http/1.0", "http/1.1", "h2c"}},
		Filters:          requestsOf(cfg, w),
	}, {
		Name:    "bytes",
		Filters: []*listener.Filter{stateFilter(identityState(w.Key(), "", w.NetNS)), bytesProxy(cfg)},
	}}
	return l
}

// closedChain closes what the kernel did not hand over to a listener at these addresses: Envoy would call itself.
func closedChain(at []netip.AddrPort) *listener.FilterChain {
	return &listener.FilterChain{
		Name:             "closed",
		FilterChainMatch: &listener.FilterChainMatch{PrefixRanges: hostRanges(at)},
		Filters:          []*listener.Filter{networkFilter("envoy.filters.network.direct_response", &direct.Config{})},
	}
}

func hostRanges(of []netip.AddrPort) []*core.CidrRange {
	out := make([]*core.CidrRange, len(of))
	for i, a := range of {
		out[i] = &core.CidrRange{AddressPrefix: a.Addr().String(), PrefixLen: number(uint32(a.Addr().BitLen()))}
	}
	return out
}

func bytesProxy(cfg *Config) *listener.Filter {
	return networkFilter("envoy.filters.network.tcp_proxy", &tcpproxy.TcpProxy{
		StatPrefix:       outDetect,
		ClusterSpecifier: &tcpproxy.TcpProxy_Cluster{Cluster: clusterBytes},
		IdleTimeout:      duration(0),
		AccessLog:        cfg.detectedLog(),
	})
}

// bytesCluster leads to the address and port that the workload connected to.
func bytesCluster(name string) *cluster.Cluster {
	c := originalDestination(name, nil)
	c.UpstreamBindConfig.SocketOptions = asWorkload()
	return c
}

// asWorkload marks connections that the kernel's programs treat as the workload's own.
func asWorkload() []*core.SocketOption {
	return []*core.SocketOption{{
		Description: "as the workload itself", Level: unix.SOL_SOCKET, Name: unix.SO_MARK,
		Value: &core.SocketOption_IntValue{IntValue: model.BytesMark}, State: core.SocketOption_STATE_PREBIND,
	}}
}
