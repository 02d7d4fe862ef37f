package model

import "net/netip"

// Gateway is a Gateway of class weft with the listeners that were accepted.
type Gateway struct {
	Namespace  string       `json:"namespace"`
	Name       string       `json:"name"`
	Generation int64        `json:"generation,omitempty"`
	Addresses  []netip.Addr `json:"addresses"`
	// Identity is what the Gateway shows to authenticated backends: service account = the Gateway's name.
	Identity Identity `json:"identity"`
	// TraceSampling is as that of a Workload.
	TraceSampling *float64 `json:"traceSampling,omitempty"`
	// Tracing is nil where no XTelemetryPolicy is in force.
	Tracing *Tracing `json:"tracing,omitempty"`
	// TrustedHops is how many proxies before the Gateway are trusted to say who the client is.
	TrustedHops uint32        `json:"trustedHops,omitempty"`
	Ports       []GatewayPort `json:"ports"`
	// BackendCertificate is the key (namespace/name) of the Certificate that it shows to backends with a BackendTLS; "" for
	// none.
	BackendCertificate string `json:"backendCertificate,omitempty"`
}

// Key is the gateway's key in its table.
func (g *Gateway) Key() string { return Key(g.Namespace, g.Name) }

// GatewayPort is a port that a Gateway listens on. Its listeners are HTTP, one of TCP, one of UDP, or of HTTPS and TLS. One
// number can be a port of TCP and a port of UDP.
type GatewayPort struct {
	Port uint16 `json:"port"`
	UDP  bool   `json:"udp,omitempty"` // it takes datagrams, and not connections
	TLS  bool   `json:"tls,omitempty"` // its listeners are HTTPS or TLS, and each is chosen by SNI
	ListenerSets
	// Listeners of an HTTP port share one route table and are one entry here.
	Listeners []GatewayListener `json:"listeners"`
}

// ListenerSets says which listeners of a port, or of a route table, are not the Gateway's own.
type ListenerSets struct {
	// Sets are where they come from, the one that counts first comes first.
	Sets []ObjectVersion `json:"listenerSets,omitempty"`
	// Only is true if none is the Gateway's own.
	Only bool `json:"listenerSetsOnly,omitempty"`
}

// Owners are the objects whose listeners these are.
func (l ListenerSets) Owners(gateway ObjectVersion) []ObjectVersion {
	if l.Only {
		return l.Sets
	}
	return append([]ObjectVersion{gateway}, l.Sets...)
}

// Namespace is the one that the listeners count for: the Gateway's, or where none is its own, that of the first ListenerSet.
func (l ListenerSets) Namespace(gateway string) string {
	if l.Only && len(l.Sets) > 0 {
		return l.Sets[0].Namespace
	}
	return gateway
}

// GatewayListener has a route table for requests, or Streams for connections and datagrams.
type GatewayListener struct {
	// Name is <namespace>/<ListenerSet>/<name> for a listener of a ListenerSet.
	Name       string `json:"name"`
	Hostname   string `json:"hostname,omitempty"` // SNI: exact, "*.suffix", or "" for all
	RouteTable string `json:"routeTable,omitempty"`
	// Certificates are keys (namespace/name) of Certificate. Without them TLS is forwarded as it is.
	Certificates []string `json:"certificates,omitempty"`
	// Clients is nil where certificates of clients are not asked for. The listeners of a port have the same.
	Clients *ClientValidation `json:"clients,omitempty"`
	Streams []GatewayStream   `json:"streams,omitempty"`
}

// ClientValidation says by what the certificates of a listener's clients are checked.
type ClientValidation struct {
	// CA holds the certificates that may have signed them, as PEM.
	CA string `json:"ca"`
	// Fallback serves clients with another certificate, and those without one, too.
	Fallback bool `json:"fallback,omitempty"`
}

// GatewayStream says which StreamRoute the connections for a name, or all datagrams, take. No two of a listener or a Division have
// one name.
type GatewayStream struct {
	Hostname string    `json:"hostname,omitempty"` // SNI: exact, "*.suffix", or "" for all
	Route    ObjectRef `json:"route"`
}

// Certificate is a TLS Secret that a listener uses. It holds a private key: never print it.
type Certificate struct {
	Namespace, Name string
	ChainPEM        []byte
	KeyPEM          []byte
}

// Key is the certificate's key in its table.
func (c *Certificate) Key() string { return Key(c.Namespace, c.Name) }

// MarshalJSON leaves the key out.
func (c *Certificate) MarshalJSON() ([]byte, error) { return []byte(`"` + c.Key() + `"`), nil }

// String leaves the key out.
func (c *Certificate) String() string { return c.Key() }
