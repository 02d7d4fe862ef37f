package model

import "encoding/json"

// Tracing says what the XTelemetryPolicy in force for a Gateway wants of its traces.
type Tracing struct {
	// Policy is the one in force, at a generation.
	Policy ObjectVersion `json:"policy"`
	// Off says that no request is traced: the policy disables traces, or where it wants the spans cannot be found.
	Off bool `json:"off,omitempty"`
	// Collector takes the spans by OTLP over gRPC. nil is the collector of the mesh, with all of the mesh's settings.
	Collector *Collector `json:"collector,omitempty"`
	// Sampling is the percentage of requests that begin a trace, from 0 to 100; nil is that of the namespace, or the mesh's.
	Sampling *float64 `json:"sampling,omitempty"`
	// FollowParent has a client that sends a trace context decide whether its request is sampled.
	FollowParent bool `json:"followParent,omitempty"`
	// ServiceName is the resource attribute service.name; "" is the Gateway's name.
	ServiceName string `json:"serviceName,omitempty"`
	// SpanName is the name of the span of a request; "" is made of its method and route.
	SpanName   string          `json:"spanName,omitempty"`
	Attributes []SpanAttribute `json:"attributes,omitempty"`
}

// Collector is a port of a Service that takes spans.
type Collector struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	Port      uint16 `json:"port"`
	// Headers are sent with the spans.
	Headers []SecretHeader `json:"headers,omitempty"`
}

// Key is that of the Service port.
func (c *Collector) Key() string { return PortKey(c.Namespace, c.Service, c.Port, TCP) }

// SecretHeader is a header whose value lets its bearer in somewhere: never print it.
type SecretHeader struct {
	Name  string
	Value string
}

// MarshalJSON leaves the value out.
func (h SecretHeader) MarshalJSON() ([]byte, error) { return json.Marshal(h.Name) }

// UnmarshalJSON reads a name.
func (h *SecretHeader) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &h.Name) }

// String leaves the value out.
func (h SecretHeader) String() string { return h.Name }

// GoString leaves the value out.
func (h SecretHeader) GoString() string { return h.Name }

// SpanAttribute is an attribute of each span. One of Literal, Header and Key is set.
type SpanAttribute struct {
	Name    string `json:"name"`
	Literal string `json:"literal,omitempty"`
	// Header is that of the request, or if it has none of the response.
	Header string `json:"header,omitempty"`
	// Key is one of SpanKeys, or begins with SpanRequestHeader or SpanResponseHeader.
	Key string `json:"key,omitempty"`
}

// Prefixes of keys that end in the name of a header.
const (
	SpanRequestHeader  = "http.request.header."
	SpanResponseHeader = "http.response.header."
)

// SpanKeys are the attributes of OpenTelemetry's semantic conventions of which the value is known, besides headers. They are the
// dictionary of GEP-5253 without error.type, http.route, network.protocol.version, network.type, server.address and url.fragment,
// for which Envoy has no value of the form that the conventions want.
var SpanKeys = []string{
	"client.address", "client.port",
	"http.request.method", "http.request.method_original", "http.response.status_code",
	"network.peer.address", "network.peer.port", "network.protocol.name", "network.transport",
	"server.port",
	"url.full", "url.path", "url.query", "url.scheme",
	"user_agent.original",
}
