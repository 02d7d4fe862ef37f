package xds

import (
	"slices"
	"strings"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsinspector "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	tcpproxy "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Connections to a Service port that TLSRoutes have (model.ServicePort.SNI). The kernel hands them to a listener of the caller's
// pod, which is the same for all Services. It passes them to the internal listener of the port, which all pods of the node share:
//
//	pod's out-sni -> cluster sni|<address>:<port>|<caller's namespace> (on demand) -> internal listener sni/<division>
//	  -> a filter chain for each server name -> cluster stream/TLSRoute/<namespace>/<name>|mesh (on demand) -> endpoint
//
// So a route changes a listener that holds its port alone. The server name, which the client chooses, is in the name of nothing.
// Envoy's connections to endpoints have the mark model.BytesMark: the kernel treats them as the workload's own, and authenticates
// them by weft tunnel or HBONE, or refuses them.

const (
	sniPrefix        = "sni/" // of internal listeners, before the key of a Division
	sniClusterPrefix = "sni|"
	// readingNames is the mode of listeners while a Service needs this, as detecting is for detection.
	readingNames = "s"
)

func namesMode(b *builder) string {
	for range b.st.Services.By(b.snap, state.BySNI, "true") {
		return readingNames
	}
	return ""
}

// outSNIListener takes connections of a workload to ports that TLSRoutes have. It reads nothing of them.
func outSNIListener(cfg *Config, w *model.Workload) *listener.Listener {
	at := loopbacks(w, PortSNI)
	l := podListener(w, outSNI, at, core.TrafficDirection_OUTBOUND)
	l.ListenerFilters = []*listener.ListenerFilter{originalDst()}
	values := append(identityState(w.Key(), "", w.NetNS),
		setState(stateClient, factoryString, "%DOWNSTREAM_REMOTE_ADDRESS%", once),
		setState(stateService, factoryString, "%DOWNSTREAM_LOCAL_ADDRESS%", once),
		setState(stateCluster, "", sniClusterPrefix+"%DOWNSTREAM_LOCAL_ADDRESS%|"+literal(w.Namespace), notShared))
	l.FilterChains = []*listener.FilterChain{closedChain(at), {
		Name: "names",
		Filters: []*listener.Filter{stateFilter(values), networkFilter("envoy.filters.network.tcp_proxy", &tcpproxy.TcpProxy{
			StatPrefix:       outSNI,
			ClusterSpecifier: &tcpproxy.TcpProxy_Cluster{Cluster: clusterNone},
			IdleTimeout:      duration(0),
			OnDemand:         onDemand(cfg),
		})},
	}}
	return l
}

// parseSNICluster reads sni|<address>:<port>|<caller's namespace>.
func parseSNICluster(name string) (at, caller string, ok bool) {
	rest, ok := strings.CutPrefix(name, sniClusterPrefix)
	if !ok {
		return "", "", false
	}
	at, caller, ok = strings.Cut(rest, "|")
	return at, caller, ok && caller != "" && !strings.ContainsAny(caller, "/| ")
}

// sniCluster leads to the internal listener of the TLSRoutes that a Service's address and port has for the callers of a namespace.
// Where it has none, because a route has gone meanwhile, it leads to the Service.
func sniCluster(b *builder, name, at, caller string) *built {
	addr, ok := parseAddrPort(at)
	if !ok {
		return nil
	}
	s := servicePort(b, addr)
	if s == nil {
		return nil
	}
	objects := []model.ObjectVersion{serviceRef(s.Namespace, s.Name)}
	port := model.PortKey(s.Namespace, s.Name, addr.Port(), model.TCP)
	for _, c := range []string{caller, ""} {
		if d, ok := b.st.Divisions.Get(b.snap, model.DivisionKey(port, c)); ok && d.ByName() {
			return &built{message: toInternal(name, sniPrefix+d.Key()), objects: objects}
		} else if ok {
			break // a TCPRoute, whose connections the kernel divides
		}
	}
	return &built{message: bytesCluster(name), objects: objects}
}

// toInternal leads to an internal listener, filter state in hand.
func toInternal(name, to string) *cluster.Cluster {
	c := newCluster(name)
	c.UpstreamBindConfig, c.UpstreamConnectionOptions = nil, nil
	c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}
	c.LoadAssignment = &endpoint.ClusterLoadAssignment{
		ClusterName: name,
		Endpoints: localities(&endpoint.LbEndpoint{HostIdentifier: &endpoint.LbEndpoint_Endpoint{
			Endpoint: &endpoint.Endpoint{Address: internalAddress(to, "")},
		}}),
	}
	c.TransportSocket = throughInternal(rawSocket())
	return c
}

// sniListenerNames are those of the internal listeners for a Division, by its key.
func sniListenerNames(b *builder, key string) []string {
	if d, ok := b.st.Divisions.Get(b.snap, key); ok && d.ByName() {
		return []string{sniPrefix + key}
	}
	return nil
}

// serviceSNIListeners are the internal listeners of a Service's ports.
func serviceSNIListeners(b *builder, s *model.Service) []string {
	var names []string
	for d := range b.st.Divisions.By(b.snap, state.ByService, s.Key()) {
		names = append(names, sniListenerNames(b, d.Key())...)
	}
	return names
}

// sniService returns the key of the Service that an internal listener is for.
func sniService(name string) (key string, ok bool) {
	rest, ok := strings.CutPrefix(name, sniPrefix)
	i := strings.LastIndexByte(rest, '/')
	if !ok || i < 0 || strings.Count(rest, "/") != 2 {
		return "", false
	}
	return rest[:i], true
}

// buildSNIListener divides the connections to a port by their server name. A client that sends no ClientHello is let go after some
// time. What has no name of a route, or is not TLS, is closed, for no filter chain takes it.
func buildSNIListener(b *builder, name, key string) *built {
	d, ok := b.st.Divisions.Get(b.snap, key)
	if !ok || !d.ByName() {
		return nil
	}
	l := &listener.Listener{
		Name:                   name,
		StatPrefix:             "sni",
		TrafficDirection:       core.TrafficDirection_OUTBOUND,
		ListenerSpecifier:      internalSpecifier(),
		ListenerFilters:        []*listener.ListenerFilter{listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspector.TlsInspector{})},
		ListenerFiltersTimeout: duration(b.cfg.timeouts().handshake),
	}
	ns, service := model.SplitKey(d.Service)
	objects := []model.ObjectVersion{serviceRef(ns, service)}
	for _, s := range d.Names {
		to := streamName{key: model.StreamKey(s.Route), mesh: true}
		l.FilterChains = append(l.FilterChains, &listener.FilterChain{
			Name:             "name/" + s.Hostname,
			FilterChainMatch: sniMatch(s.Hostname),
			Filters: []*listener.Filter{networkFilter("envoy.filters.network.tcp_proxy", &tcpproxy.TcpProxy{
				StatPrefix:         "sni",
				ClusterSpecifier:   &tcpproxy.TcpProxy_Cluster{Cluster: to.String()},
				IdleTimeout:        duration(0),
				MaxConnectAttempts: number(streamAttempts),
				OnDemand:           onDemand(b.cfg),
				AccessLog:          b.cfg.namedLog(),
				// Whoever sees the connection to the endpoint end knows the route by then.
				AccessLogOptions: &tcpproxy.TcpProxy_TcpAccessLogOptions{FlushAccessLogOnConnected: true},
			})},
		})
		if ref := (model.ObjectVersion{ObjectRef: s.Route}); !slices.Contains(objects, ref) {
			objects = append(objects, ref)
		}
	}
	return &built{message: l, objects: objects}
}
