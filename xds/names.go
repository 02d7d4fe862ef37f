package xds

import (
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weft-mesh/weft/internal/model"
)

// Names that the bootstrap and other packages use.
const (
	// ClusterXDS is the static cluster of the bootstrap that leads to the agent's socket.
	ClusterXDS = "xds"
	// SecretRootCA is the secret with the trust bundle.
	SecretRootCA = "ROOTCA"
	// PortHTTP, PortTCP, PortDetect, PortSNI, PortInbound and PortHBONE are where Envoy listens in a pod's namespace.
	PortHTTP    = model.PortHTTP
	PortTCP     = model.PortTCP
	PortDetect  = model.PortDetect
	PortSNI     = model.PortSNI
	PortInbound = model.PortInbound
	PortHBONE   = model.PortHBONE
	// OriginalSourceMark is the mark of Envoy's connections to the app that carry the client's address.
	OriginalSourceMark = model.ProxyMark
)

// Names of the type URLs that the server answers.
const (
	TypeListener = "type.googleapis.com/envoy.config.listener.v3.Listener"
	TypeScope    = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
	TypeRoute    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	TypeCluster  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	TypeEndpoint = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	TypeSecret   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	// TypeFilter is a filter that is served apart from the listener that holds it: authorization.
	TypeFilter = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	// TypeRuntime is a layer of values that Envoy reads at run time: model.RuntimeLimits.
	TypeRuntime = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
)

const (
	listenerOriginate = "hbone-originate" // internal listener that wraps L7 upstream connections in HBONE

	clusterOriginate   = "hbone-originate"  // its way out: original destination, port 15008
	listenerTunnel     = "tunnel-originate" // internal listener that passes L7 upstream connections on to weft tunnel
	clusterTunnel      = "tunnel"           // its way out: weft tunnel of this node
	clusterConnect     = "inbound-connect"  // a CONNECT's authority -> the app
	clusterInbound     = "inbound"          // a connection's original destination -> the app
	clusterInboundHTTP = "inbound-http"     // the same for requests
	clusterBytes       = "outbound-bytes"   // a workload's connection that does not speak HTTP -> where it was going
	listenerMirror     = "mirror"           // internal listener that sends copies of requests on
	clusterIdentities  = "identities"       // has the SVIDs of this node's workloads fetched; leads nowhere
	clusterMirror      = "mirror"           // leads there

	clusterNone = "none" // never served: tcp_proxy needs a name, filter state overrides it

	scopeHeader = "x-weft-scope" // the scope key: always overwritten by us, stripped before the upstream sees it
	scopesName  = "mesh"
	// callerHeader is the caller's namespace, written over and stripped like the scope key. It chooses the virtual host of a
	// Service's table, so that no request is compared with the rules that other namespaces' callers have.
	callerHeader = "x-weft-caller"

	certPrefix    = "cert|"
	clientsPrefix = "clients|" // of the authorities of a Gateway port's clients
	exportPrefix  = "export|"  // of the collector that an XTelemetryPolicy names for a Gateway
	headerPrefix  = "header|"  // of the value of a header that goes there
	tcpPrefix     = "tcp|"
	servicePrefix = "service/"
	gatewayPrefix = "gateway/"
	spiffePrefix  = "spiffe://"
	// serverPrefix marks an SVID that a listener shows. Clients fetch the same SVID under its bare SPIFFE ID, on demand.
	// Envoy 1.40 keeps two subscriptions for these two ways, and the second one to a name that the stream already has
	// would wait for ever.
	serverPrefix = "server|"

	plainSuffix = "|plain" // for callers without an identity: no HBONE
	httpSuffix  = "|http1" // for Gateways and copies of requests: HTTP/1.1 unless the service says otherwise
	grpcSuffix  = "|grpc"  // for the same: HTTP/2
	// certSuffix comes before the key of the certificate that a Gateway shows to the backends of a BackendTLSPolicy.
	certSuffix = "|cert="
)

// Listener names of a local workload.
const (
	outHTTP = "out-http"
	outTCP  = "out-tcp"
	// outDetect is for what may or may not speak HTTP. Its filter chooses the cluster of what does not.
	outDetect = "out-detect"
	outSNI    = "out-sni" // for what TLSRoutes divide
	inHBONE   = "hbone"
	inPlain   = "in"
	inHTTP    = "in-http" // internal; also the name of the cluster that leads to it
)

func workloadName(w *model.Workload, suffix string) string { return w.Key() + "/" + suffix }

// cutWorkloadName splits <ns>/<pod>/<suffix>.
func cutWorkloadName(name string) (key, suffix string, ok bool) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 || strings.Count(name, "/") != 2 {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

// serviceName is a parsed name service/<ns>/<name>/<port>[|plain][|cert=<ns>/<secret>][|http1] of a cluster or route table.
type serviceName struct {
	namespace, name string
	port            uint16
	plain           bool
	certificate     string // key
	protocol        string // "", httpSuffix or grpcSuffix
}

func (n serviceName) key() string { return model.Key(n.namespace, n.name) }

func (n serviceName) portKey() string { return model.PortKey(n.namespace, n.name, n.port, model.TCP) }

func (n serviceName) table() string { return model.ServiceTable(n.namespace, n.name, n.port) }

// String is the inverse of parseServiceName.
func (n serviceName) String() string {
	s := n.table()
	if n.plain {
		s += plainSuffix
	}
	return s + certText(n.certificate) + n.protocol
}

func certText(certificate string) string {
	if certificate == "" {
		return ""
	}
	return certSuffix + certificate
}

// cutCertificate splits a name before certSuffix.
func cutCertificate(s string) (rest, certificate string, ok bool) {
	rest, certificate, found := strings.Cut(s, certSuffix)
	if !found {
		return s, "", true
	}
	ns, name, _ := strings.Cut(certificate, "/")
	return rest, certificate, ns != "" && name != "" && !strings.ContainsAny(name, "/|") && !strings.Contains(ns, "|")
}

// parseServiceName accepts exactly what String gives.
func parseServiceName(s string) (serviceName, bool) {
	rest, ok := strings.CutPrefix(s, servicePrefix)
	if !ok {
		return serviceName{}, false
	}
	var n serviceName
	for _, p := range []string{httpSuffix, grpcSuffix} {
		if cut, ok := strings.CutSuffix(rest, p); ok {
			rest, n.protocol = cut, p
			break
		}
	}
	rest, n.certificate, ok = cutCertificate(rest)
	rest, n.plain = strings.CutSuffix(rest, plainSuffix)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 || parts[0] == "" || parts[1] == "" {
		return serviceName{}, false
	}
	port, ok := parsePort(parts[2])
	if !ok || strings.Contains(rest, "|") || !utf8.ValidString(s) {
		return serviceName{}, false
	}
	n.namespace, n.name, n.port = parts[0], parts[1], port
	return n, true
}

// gatewayName is a parsed name gateway/<ns>/<name>/<port>[/[<ns>/<ListenerSet>/]<listener>][|plain] of a route table, or
// without listener and suffix of a Gateway's port (its Envoy listeners are named gateway/<ns>/<name>/<port>).
type gatewayName struct {
	namespace, name string
	port            uint16
	listener        string // with the ListenerSet that it is of
	plain           bool
}

func (n gatewayName) key() string { return model.Key(n.namespace, n.name) }

func (n gatewayName) table() string {
	return model.GatewayTable(n.namespace, n.name, n.port, n.listener)
}

// String is the inverse of parseGatewayName.
func parseGatewayName(s string) (gatewayName, bool) {
	rest, ok := strings.CutPrefix(s, gatewayPrefix)
	if !ok {
		return gatewayName{}, false
	}
	var n gatewayName
	rest, n.plain = strings.CutSuffix(rest, plainSuffix)
	parts := strings.Split(rest, "/")
	if len(parts) != 3 && len(parts) != 4 && len(parts) != 6 || strings.Contains(rest, "|") || !utf8.ValidString(rest) {
		return gatewayName{}, false
	}
	for _, p := range parts {
		if p == "" {
			return gatewayName{}, false
		}
	}
	if n.port, ok = parsePort(parts[2]); !ok {
		return gatewayName{}, false
	}
	n.namespace, n.name = parts[0], parts[1]
	n.listener = strings.Join(parts[3:], "/")
	return n, true
}

// parseTCPCluster reads the name of the cluster of a peer's address. The port that a client connects to is not part of
// the name: clients choose it, and Envoy would keep a cluster for each. It travels in the authority of the CONNECT.
func parseTCPCluster(s string) (netip.Addr, bool) {
	rest, ok := strings.CutPrefix(s, tcpPrefix)
	if !ok {
		return netip.Addr{}, false
	}
	return parseAddr(rest)
}

// scopeKey is what a listener writes into scopeHeader: the original destination as Envoy prints it.
func scopeKey(a netip.AddrPort, plain bool) string {
	if plain {
		return a.String() + plainSuffix
	}
	return a.String()
}

func parseScopeKey(s string) (a netip.AddrPort, plain, ok bool) {
	s, plain = strings.CutSuffix(s, plainSuffix)
	a, ok = parseAddrPort(s)
	return a, plain, ok
}

// parseAddr accepts the canonical form only: no zone, no IPv4-mapped address.
func parseAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.String() != s {
		return netip.Addr{}, false
	}
	return a, true
}

// parseAddrPort accepts the canonical form only: no zone, no IPv4-mapped address, no leading zero.
func parseAddrPort(s string) (netip.AddrPort, bool) {
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 || a.Addr().Zone() != "" || a.Addr().Is4In6() || a.String() != s {
		return netip.AddrPort{}, false
	}
	return a, true
}

func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, false
	}
	return uint16(n), true
}
