package model

import (
	"cmp"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// RouteTable says what happens to requests that arrive at one L7 frontend.
type RouteTable struct {
	// Name is "service/" + PortKey for a service port, "gateway/ns/name/port" for a Gateway's HTTP port,
	// "gateway/ns/name/port/listener" for an HTTPS listener, with "ns/name/" of its ListenerSet before the listener if it
	// has one.
	Name string `json:"name"`
	// Generation is the Gateway's; 0 for a service port.
	Generation int64 `json:"generation,omitempty"`
	ListenerSets
	VirtualHosts []VirtualHost `json:"virtualHosts"`
}

// ServiceTable is the name of the route table of a service port.
func ServiceTable(namespace, name string, port uint16) string {
	return "service/" + PortKey(namespace, name, port, TCP)
}

// GatewayTable is the name of the route table of a Gateway's port, and of one HTTPS listener if listener is not "".
func GatewayTable(namespace, name string, port uint16, listener string) string {
	t := GatewayPorts(namespace, name, false) + strconv.Itoa(int(port))
	if listener != "" {
		t += "/" + listener
	}
	return t
}

// GatewayDatagrams is the name of Envoy's listener for a UDP port of a Gateway, and of the cluster behind it.
func GatewayDatagrams(namespace, name string, port uint16) string {
	return GatewayPorts(namespace, name, true) + strconv.Itoa(int(port))
}

// GatewayPorts is what the names that are made of a Gateway's ports of TCP, or of UDP, begin with. The port's number follows, and for
// what one listener has of its own a slash and the listener.
func GatewayPorts(namespace, name string, udp bool) string {
	if udp {
		return "gateway-udp/" + Key(namespace, name) + "/"
	}
	return "gateway/" + Key(namespace, name) + "/"
}

// VirtualHost is a set of hosts with the rules for them. Hosts are exact names, "*.suffix", or "*"; no two
// virtual hosts of a table share one. The most specific host wins (RFC 9110 host, ports stripped).
type VirtualHost struct {
	Hosts []string `json:"hosts"`
	Rules []Rule   `json:"rules"` // in order of precedence; the first that matches wins, none: 404
}

// Rule is one match of one rule of an HTTPRoute or GRPCRoute.
type Rule struct {
	Route      ObjectRef `json:"route"`
	Generation int64     `json:"generation,omitempty"` // of the route
	Index      int       `json:"index"`                // the rule's place in the route
	Name       string    `json:"name,omitempty"`
	// CallerNamespace restricts the rule to callers of a namespace: consumer routes (GEP-1294). "" is anybody.
	CallerNamespace string         `json:"callerNamespace,omitempty"`
	Match           Match          `json:"match"`
	RequestHeaders  HeaderChange   `json:"requestHeaders,omitzero"`
	ResponseHeaders HeaderChange   `json:"responseHeaders,omitzero"`
	Redirect        *Redirect      `json:"redirect,omitempty"`
	Rewrite         *Rewrite       `json:"rewrite,omitempty"`
	Mirrors         []Mirror       `json:"mirrors,omitempty"`
	CORS            *CORS          `json:"cors,omitempty"`
	Timeout         *time.Duration `json:"timeout,omitempty"`        // of the whole request; 0 is none
	BackendTimeout  *time.Duration `json:"backendTimeout,omitempty"` // of one try
	Retry           *Retry         `json:"retry,omitempty"`
	// Status other than 0 answers directly: 404 where nothing is to serve a caller, 421 where the host is another
	// listener's, 500 where no backend is valid.
	Status   int       `json:"status,omitempty"`
	Backends []Backend `json:"backends,omitempty"`
}

// AllBackends yields the rule's backends, and those of its mirrors.
func (r *Rule) AllBackends() iter.Seq[*Backend] {
	return func(yield func(*Backend) bool) {
		for i := range r.Backends {
			if !yield(&r.Backends[i]) {
				return
			}
		}
		for i := range r.Mirrors {
			if !yield(&r.Mirrors[i].Backend) {
				return
			}
		}
	}
}

// Match of a request: all of its parts.
type Match struct {
	Path    PathMatch    `json:"path"`
	Method  string       `json:"method,omitempty"`
	Headers []ValueMatch `json:"headers,omitempty"`
	Query   []ValueMatch `json:"query,omitempty"`
	// GRPC restricts the rule to requests with content-type application/grpc.
	GRPC bool `json:"grpc,omitempty"`
}

// MatchType tells how a value is compared.
type MatchType string

// PathPrefix compares whole path elements (/a matches /a and /a/b, not /ab); Regex is RE2, anchored at both ends.
const (
	MatchExact  MatchType = "Exact"
	MatchPrefix MatchType = "PathPrefix"
	MatchRegex  MatchType = "RegularExpression"
)

// PathMatch compares the path without its query. The zero value matches every path.
type PathMatch struct {
	Type  MatchType `json:"type,omitempty"`
	Value string    `json:"value,omitempty"`
}

// Matches compares a path without its query. An expression that does not compile matches nothing.
func (m PathMatch) Matches(path string) bool {
	switch m.Type {
	case MatchExact:
		return path == m.Value
	case MatchRegex:
		return matchesWhole(m.Value, path)
	}
	prefix := strings.TrimRight(m.Value, "/")
	return prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/")
}

func matchesWhole(expression, text string) bool {
	re, err := regexp.Compile("^(?:" + expression + ")$")
	return err == nil && re.MatchString(text)
}

// ValueMatch compares a header (name case-insensitive, lower case here) or a query parameter.
type ValueMatch struct {
	Name  string    `json:"name"`
	Type  MatchType `json:"type"`
	Value string    `json:"value"`
}

// HeaderChange is applied in the order Set, Add, Remove.
type HeaderChange struct {
	Set    []Header `json:"set,omitempty"`
	Add    []Header `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

// Reserved returns a header of a request that the change may not touch, or "" if there is none. Envoy takes x-envoy-retry-on,
// x-envoy-max-retries and others of a request for its own settings, also after a route wrote them. The mesh writes x-weft-*.
func (c HeaderChange) Reserved() string {
	for _, h := range slices.Concat(c.Set, c.Add) {
		if n := strings.ToLower(h.Name); strings.HasPrefix(n, "x-envoy-") || strings.HasPrefix(n, "x-weft-") {
			return n
		}
	}
	for _, n := range c.Remove {
		if n = strings.ToLower(n); strings.HasPrefix(n, "x-weft-") {
			return n
		}
	}
	return ""
}

// Header is a name and a literal value.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Redirect answers with a Location. Empty fields keep the request's value. Port 0 keeps the scheme's own port when
// Scheme is set, and else the port that the request came in on.
type Redirect struct {
	Scheme string      `json:"scheme,omitempty"`
	Host   string      `json:"host,omitempty"`
	Port   uint16      `json:"port,omitempty"`
	Path   *PathChange `json:"path,omitempty"`
	Status int         `json:"status"`
}

// Rewrite changes what the backend sees.
type Rewrite struct {
	Host string      `json:"host,omitempty"`
	Path *PathChange `json:"path,omitempty"`
}

// RewriteFor returns the rule's Rewrite with what a backend's own sets in its place; nil if there is none.
func (r *Rule) RewriteFor(b Backend) *Rewrite {
	if r.Rewrite == nil || b.Rewrite == nil {
		return cmp.Or(b.Rewrite, r.Rewrite)
	}
	return &Rewrite{Host: cmp.Or(b.Rewrite.Host, r.Rewrite.Host), Path: cmp.Or(b.Rewrite.Path, r.Rewrite.Path)}
}

// PathChange has one of its fields set. Prefix is only there when the rule's match is a PathPrefix, and replaces it.
type PathChange struct {
	Full   *string `json:"full,omitempty"`
	Prefix *string `json:"prefix,omitempty"`
}

// Mirror sends a copy of Numerator/Denominator of the requests to a backend and ignores its answers.
type Mirror struct {
	Backend     Backend `json:"backend"`
	Numerator   uint32  `json:"numerator"`
	Denominator uint32  `json:"denominator"` // 100, 10000 or 1000000
}

// CORS as in GEP-1767.
type CORS struct {
	AllowOrigins     []string      `json:"allowOrigins,omitempty"`
	AllowMethods     []string      `json:"allowMethods,omitempty"`
	AllowHeaders     []string      `json:"allowHeaders,omitempty"`
	ExposeHeaders    []string      `json:"exposeHeaders,omitempty"`
	AllowCredentials bool          `json:"allowCredentials,omitempty"`
	MaxAge           time.Duration `json:"maxAge,omitempty"`
}

// Retry as in GEP-1731. Requests that no backend has processed are always retried when it is there.
type Retry struct {
	Codes    []int         `json:"codes,omitempty"`
	Attempts int           `json:"attempts"` // after the first; 0 is no retry at all
	Backoff  time.Duration `json:"backoff,omitempty"`
}

// Backend is a share of a rule's traffic.
type Backend struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Port      uint16 `json:"port"`
	Weight    uint32 `json:"weight"`
	// Invalid backends (missing, refused by a missing ReferenceGrant, of an unknown kind) answer their share with 500.
	Invalid         bool         `json:"invalid,omitempty"`
	RequestHeaders  HeaderChange `json:"requestHeaders,omitzero"`
	ResponseHeaders HeaderChange `json:"responseHeaders,omitzero"`
	// Rewrite changes what this backend sees; what it sets takes the place of the rule's Rewrite.
	Rewrite *Rewrite `json:"rewrite,omitempty"`
}

// Cluster is the name of the backend's Envoy cluster.
func (b Backend) Cluster() string { return ServiceTable(b.Namespace, b.Name, b.Port) }

// StreamRoute is a TLSRoute or TCPRoute, or a UDPRoute: what connections, or sessions of datagrams, are divided among. Those of
// Invalid backends are refused, and all if there is none.
type StreamRoute struct {
	Route      ObjectRef `json:"route"`
	Generation int64     `json:"generation,omitempty"`
	// Mesh is set for the connections of Services that a TLSRoute takes. What a route may refer to differs from that at Gateways.
	Mesh     bool      `json:"mesh,omitempty"`
	Backends []Backend `json:"backends,omitempty"`
}

// Key is the route's key in its table: kind/namespace/name, with a suffix for Mesh.
func (r *StreamRoute) Key() string {
	if r.Mesh {
		return MeshStreamKey(r.Route)
	}
	return StreamKey(r.Route)
}

// MeshStreamKey is the key of a StreamRoute for connections of Services.
func MeshStreamKey(route ObjectRef) string { return StreamKey(route) + MeshSuffix }

// MeshSuffix ends the keys of StreamRoutes for connections of Services.
const MeshSuffix = "|mesh"

// StreamKey is the key of a StreamRoute.
func StreamKey(route ObjectRef) string { return route.Kind + "/" + Key(route.Namespace, route.Name) }
