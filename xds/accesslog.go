package xds

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	grpclog "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	als "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	tracing "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	"github.com/google/uuid"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weft-mesh/weft/internal/model"
)

// Flow is what one Envoy saw of a connection in the mesh, or with Config.RequestLog of a request.
type Flow struct {
	Time     time.Time     `json:"time"` // of its start
	Duration time.Duration `json:"duration,omitempty"`
	// Open is true for the report at the start of an authenticated connection; a second one comes at its end.
	Open bool `json:"open,omitempty"`
	// Detected is true for an application's connection to Envoy that Envoy found not to speak HTTP, and passed on as bytes. Source
	// is the application's end of it. The connection that Envoy made for it is reported besides.
	Detected bool `json:"detected,omitempty"`
	// Named is set for an application's connection to Envoy that Envoy passed on by its server name. Source is the application's end of
	// it. The connection that Envoy made for it is reported besides.
	Named *Named `json:"named,omitempty"`
	// Outbound is true if this Envoy is the client's.
	Outbound bool `json:"outbound"`
	// Owner is whom the connection belongs to at this end: <ns>/<pod>, or gateway/<ns>/<name>.
	Owner string `json:"owner"`
	// Source and Destination are the pods' addresses as the applications know them: never those of a tunnel.
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// Local and Peer are the SPIFFE IDs in the certificates of this connection, "" where there was none.
	Local model.Identity `json:"local,omitempty"`
	Peer  model.Identity `json:"peer,omitempty"`
	// Sent and Received are payload bytes, from the client's point of view.
	Sent     uint64 `json:"sent"`
	Received uint64 `json:"received"`
	// Failure tells in Envoy's words why the connection or request failed, "" if it did not.
	Failure string   `json:"failure,omitempty"`
	Request *Request `json:"request,omitempty"`
	// Stream is what the Envoys of both ends call the CONNECT of an authenticated connection; "" where a client of another make
	// opened it. Several share a TLS connection, so its ports do not tell them apart.
	Stream string `json:"stream,omitempty"`
}

// Named is how a connection was passed on by its server name.
type Named struct {
	Route   string         `json:"route"`   // TLSRoute/<namespace>/<name>
	Service netip.AddrPort `json:"service"` // where the application connected to
	Onward  netip.AddrPort `json:"onward"`  // Envoy's end of its own connection
}

// Request is the HTTP part of a Flow.
type Request struct {
	Method    string `json:"method"`
	Authority string `json:"authority"`
	Path      string `json:"path"`
	Status    int    `json:"status"`
	Cluster   string `json:"cluster,omitempty"`
	// Route is the rule that took the request, <Kind>/<namespace>/<name>/<number>[/<name of the rule>]; "" where none of a user's did.
	Route string `json:"route,omitempty"`
	// Backend is where the request was sent to; it is not valid if it was sent nowhere.
	Backend netip.AddrPort `json:"backend,omitzero"`
}

// Log names tell where an entry was written.
const (
	logOut        = "out"
	logIn         = "in"
	logDetected   = "detected"
	logNamed      = "named"
	logRequest    = "request"     // at a Gateway or the destination
	logRequestOut = "request-out" // at the caller
)

// Custom tags of entries.
const (
	tagOwner  = "owner"
	tagLocal  = "local"
	tagPeer   = "peer"
	tagTarget = "target" // the authority of a CONNECT
	tagSource = "source"
	tagStream = "stream" // of a CONNECT
	// Of the logs of connections by name: the application's end, and what it connected to.
	tagClient  = "client"
	tagService = "service"
)

const (
	// headerStream is a header of CONNECTs. It has streamID of the client's Envoy, so that the reports of both ends can be told to be of
	// one connection. It does not reach the application, and says nothing but that.
	headerStream = "x-weft-stream"
	streamID     = "%STREAM_ID%" // a UUID for each connection (Envoy, access logging, command operators)
	// lenStreamID is the length of a UUID (RFC 9562 4).
	lenStreamID = 36
)

// tunnelLog reports authenticated connections. Entries of one kind share one stream, whichever pod they belong to.
func (cfg *Config) tunnelLog(name string) []*accesslog.AccessLog {
	if cfg.AccessLog == nil {
		return nil
	}
	tags := map[string]string{tagOwner: "%FILTER_STATE(" + stateOwner + ":PLAIN)%"}
	if name == logOut {
		tags[tagLocal], tags[tagPeer] = "%UPSTREAM_LOCAL_URI_SAN%", "%UPSTREAM_PEER_URI_SAN%"
		tags[tagSource], tags[tagStream] = "%UPSTREAM_LOCAL_ADDRESS%", streamID
		return []*accesslog.AccessLog{tcpLog(name, tags)}
	}
	tags[tagTarget], tags[tagStream] = "%REQ(:AUTHORITY)%", fmt.Sprintf("%%REQ(%s):%d%%", headerStream, lenStreamID)
	return []*accesslog.AccessLog{httpLog(name, tags)}
}

// detectedLog reports connections that were found not to speak HTTP.
func (cfg *Config) detectedLog() []*accesslog.AccessLog {
	if cfg.AccessLog == nil {
		return nil
	}
	return []*accesslog.AccessLog{tcpLog(logDetected, map[string]string{tagOwner: "%FILTER_STATE(" + stateOwner + ":PLAIN)%"})}
}

// namedLog reports connections that were passed on by their server name.
func (cfg *Config) namedLog() []*accesslog.AccessLog {
	if cfg.AccessLog == nil {
		return nil
	}
	state := func(name string) string { return "%FILTER_STATE(" + name + ":PLAIN)%" }
	return []*accesslog.AccessLog{tcpLog(logNamed, map[string]string{
		tagOwner: state(stateOwner), tagClient: state(stateClient), tagService: state(stateService), tagSource: "%UPSTREAM_LOCAL_ADDRESS%",
	})}
}

// requestLog reports each request, by a log of this name. local is the identity of the workload whose listener it is, and peer a format
// for that of the other end, which is empty or "-" where it has proven none. TLS is ended elsewhere, at both ends. "" is none.
func (cfg *Config) requestLog(name string, local model.Identity, peer string) []*accesslog.AccessLog {
	if cfg.AccessLog == nil || !cfg.RequestLog {
		return nil
	}
	tags := map[string]string{tagOwner: "%FILTER_STATE(" + stateOwner + ":PLAIN)%"}
	if local != "" && peer != "" {
		tags[tagLocal], tags[tagPeer] = literal(string(local)), peer
	}
	return []*accesslog.AccessLog{httpLog(name, tags)}
}

func tcpLog(name string, tags map[string]string) *accesslog.AccessLog {
	return &accesslog.AccessLog{
		Name: "envoy.access_loggers.tcp_grpc",
		ConfigType: &accesslog.AccessLog_TypedConfig{TypedConfig: typed(&grpclog.TcpGrpcAccessLogConfig{
			CommonConfig: commonLog(name, tags),
		})},
	}
}

func httpLog(name string, tags map[string]string) *accesslog.AccessLog {
	return &accesslog.AccessLog{
		Name: "envoy.access_loggers.http_grpc",
		ConfigType: &accesslog.AccessLog_TypedConfig{TypedConfig: typed(&grpclog.HttpGrpcAccessLogConfig{
			CommonConfig: commonLog(name, tags),
		})},
	}
}

func commonLog(name string, tags map[string]string) *grpclog.CommonGrpcAccessLogConfig {
	c := &grpclog.CommonGrpcAccessLogConfig{
		LogName:             name,
		TransportApiVersion: core.ApiVersion_V3,
		BufferFlushInterval: duration(time.Second),
		GrpcService: &core.GrpcService{TargetSpecifier: &core.GrpcService_EnvoyGrpc_{
			EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: ClusterXDS},
		}},
	}
	for _, tag := range []string{tagClient, tagLocal, tagOwner, tagPeer, tagService, tagSource, tagStream, tagTarget} {
		if format, ok := tags[tag]; ok {
			c.CustomTags = append(c.CustomTags, &tracing.CustomTag{Tag: tag, Type: &tracing.CustomTag_Value{Value: format}})
		}
	}
	return c
}

// accessLogs is the gRPC service that Envoys report to.
type accessLogs struct {
	als.UnimplementedAccessLogServiceServer
	server *Server
}

// StreamAccessLogs takes in one stream: its first message tells its log.
func (a *accessLogs) StreamAccessLogs(stream als.AccessLogService_StreamAccessLogsServer) error {
	sink, name := a.server.cfg.AccessLog, ""
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&als.StreamAccessLogsResponse{})
		}
		if err != nil {
			return err
		}
		if id := m.GetIdentifier(); id != nil {
			name = id.GetLogName()
		}
		if sink == nil {
			continue
		}
		for _, e := range m.GetTcpLogs().GetLogEntry() {
			if f := tcpFlow(e, name); f != nil {
				sink(f)
			}
		}
		for _, e := range m.GetHttpLogs().GetLogEntry() {
			sink(httpFlow(e, name))
		}
	}
}

// tcpFlow reads the entry of a connection that went into a tunnel, came in the clear, or was passed on; nil if it says nothing.
func tcpFlow(e *data.TCPAccessLogEntry, log string) *Flow {
	c := e.GetCommonProperties()
	f := commonFlow(c, log == logOut || log == logDetected || log == logNamed)
	f.Detected = log == logDetected
	f.Sent, f.Received = e.GetConnectionProperties().GetReceivedBytes(), e.GetConnectionProperties().GetSentBytes()
	f.Local, f.Peer = spiffeID(c.GetCustomTags()[tagLocal]), spiffeID(c.GetCustomTags()[tagPeer])
	f.Open = c.GetAccessLogType() == data.AccessLogType_TcpUpstreamConnected
	if log == logNamed {
		return namedFlow(f, c)
	}
	// An app's connection to a loopback listener has a loopback source: the tunnel's own end is the pod's address.
	if s, err := netip.ParseAddrPort(c.GetCustomTags()[tagSource]); err == nil && (!f.Source.IsValid() || f.Source.Addr().IsLoopback()) {
		f.Source = netip.AddrPortFrom(s.Addr().Unmap(), f.Source.Port())
	}
	return f
}

// namedFlow adds what an entry says of a connection that was passed on by its server name. The entry's own addresses are those of an
// internal listener. It returns nil where nothing was passed on.
func namedFlow(f *Flow, c *data.AccessLogCommon) *Flow {
	tag := func(name string) netip.AddrPort {
		a, _ := netip.ParseAddrPort(c.GetCustomTags()[name])
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	to, ok := parseStreamName(c.GetUpstreamCluster())
	n := &Named{Route: to.key, Service: tag(tagService), Onward: tag(tagSource)}
	if f.Source = tag(tagClient); !ok || !f.Source.IsValid() || !n.Onward.IsValid() {
		return nil
	}
	f.Named, f.Destination = n, n.Service
	return f
}

// httpFlow reads the entry of a CONNECT that came in, or of a request.
func httpFlow(e *data.HTTPAccessLogEntry, log string) *Flow {
	c := e.GetCommonProperties()
	f := commonFlow(c, false)
	f.Sent, f.Received = e.GetRequest().GetRequestBodyBytes(), e.GetResponse().GetResponseBodyBytes()
	f.Open = c.GetAccessLogType() == data.AccessLogType_DownstreamTunnelSuccessfullyEstablished
	if p := c.GetTlsProperties(); p != nil {
		f.Local, f.Peer = certificateID(p.GetLocalCertificateProperties()), certificateID(p.GetPeerCertificateProperties())
	}
	status := int(e.GetResponse().GetResponseCode().GetValue())
	// An answer of the application is no failure of the request, whatever its status.
	details := e.GetResponse().GetResponseCodeDetails()
	if r, ok := refusals[status]; ok && log == logRequest && details == detailsFault {
		details = r
	}
	if f.Failure != "" || status >= 400 && details != detailsUpstream {
		f.Failure = joinWords(f.Failure, details)
	}
	if log == logRequest || log == logRequestOut {
		f.Outbound = log == logRequestOut
		f.Request = &Request{
			Method: e.GetRequest().GetRequestMethod().String(), Authority: cutText(e.GetRequest().GetAuthority(), maxAuthority),
			Path: cutText(e.GetRequest().GetPath(), maxLoggedPath), Status: status, Cluster: c.GetUpstreamCluster(), Route: c.GetRouteName(), Backend: backendAddr(c.GetUpstreamRemoteAddress()),
		}
		// An endpoint that did not answer has proven nothing.
		if peer := spiffeID(c.GetCustomTags()[tagPeer]); peer != "" && (log == logRequest || details == detailsUpstream) {
			f.Local, f.Peer = spiffeID(c.GetCustomTags()[tagLocal]), peer
		}
		return f
	}
	if at, err := netip.ParseAddrPort(c.GetCustomTags()[tagTarget]); err == nil {
		f.Destination = at
	}
	return f
}

func commonFlow(c *data.AccessLogCommon, outbound bool) *Flow {
	f := &Flow{
		Time: c.GetStartTime().AsTime(), Duration: c.GetDuration().AsDuration(), Outbound: outbound,
		Owner:       c.GetCustomTags()[tagOwner],
		Source:      socketAddr(c.GetDownstreamRemoteAddress()),
		Destination: socketAddr(c.GetDownstreamLocalAddress()),
	}
	// A client that is not this mesh's Envoy may send anything. Validate takes longer forms too.
	if s := c.GetCustomTags()[tagStream]; len(s) == lenStreamID && uuid.Validate(s) == nil {
		f.Stream = s
	}
	f.Failure = joinWords(flagWords(c.GetResponseFlags()), c.GetUpstreamTransportFailureReason(),
		c.GetDownstreamTransportFailureReason(), c.GetConnectionTerminationDetails())
	return f
}

func certificateID(p *data.TLSProperties_CertificateProperties) model.Identity {
	for _, san := range p.GetSubjectAltName() {
		if id := spiffeID(san.GetUri()); id != "" {
			return id
		}
	}
	return ""
}

// spiffeID returns the identity that a certificate's name is, or "" if it is something else.
func spiffeID(s string) model.Identity {
	id, err := spiffeid.FromString(s)
	if err != nil {
		return ""
	}
	return model.Identity(id.String())
}

func socketAddr(a *core.Address) netip.AddrPort {
	s := a.GetSocketAddress()
	ip, err := netip.ParseAddr(s.GetAddress())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(s.GetPortValue()))
}

// backendAddr returns the address of an endpoint, also of one that is reached by an internal listener, which opens a CONNECT to it or
// goes on by weft tunnel.
func backendAddr(a *core.Address) netip.AddrPort {
	id, _, _ := strings.Cut(a.GetEnvoyInternalAddress().GetEndpointId(), "/")
	if at, err := netip.ParseAddrPort(id); err == nil {
		return at
	}
	return socketAddr(a)
}

// detailsUpstream is what Envoy says of an answer that came from the upstream (StreamInfo::ResponseCodeDetails).
const detailsUpstream = "via_upstream"

// detailsFault is what Envoy says of a request that abortWhere refuses.
const detailsFault = "fault_filter_abort"

// refusals are what flows say instead, by status: of refuseOddHosts and refuseLoops.
var refusals = map[int]string{400: "malformed_host", 508: "gateway_loop"}

// unsaid are flags that say that the client went away, or what the details say of a fault.
var unsaid = []string{"downstream_connection_termination", "downstream_remote_reset", "fault_injected"}

// flagWords returns the names of the flags that are set, except those of unsaid.
func flagWords(f *data.ResponseFlags) string {
	var words []string
	f.ProtoReflect().Range(func(d protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if n := string(d.Name()); !slices.Contains(unsaid, n) {
			words = append(words, n)
		}
		return true
	})
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// What is kept of a request's path and authority, in bytes. Flows are kept by number, and a client chooses these.
const maxLoggedPath, maxAuthority = 1024, 256

// cutText shortens a text to so many bytes and says so by an ellipsis.
func cutText(s string, most int) string {
	if len(s) <= most {
		return s
	}
	// A copy, so that the rest is not kept with it.
	return strings.ToValidUTF8(strings.Clone(s[:most-len("…")]), "") + "…"
}

func joinWords(words ...string) string {
	words = slices.DeleteFunc(words, func(s string) bool { return s == "" || s == "-" })
	return strings.Join(words, ": ")
}
