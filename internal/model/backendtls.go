package model

// BackendTLS says how Envoy connects to the endpoints of a Service port that a BackendTLSPolicy selects. Without a row
// connections are in the clear, or as the mesh makes them.
type BackendTLS struct {
	Namespace string `json:"namespace"` // of the Service
	Service   string `json:"service"`
	Port      uint16 `json:"port"`
	// Policy is the one in force, at a generation.
	Policy ObjectVersion `json:"policy"`
	// Invalid says that the policy cannot be followed: nothing is sent to the port.
	Invalid bool `json:"invalid,omitempty"`
	// ServerName is sent as SNI (RFC 6066).
	ServerName string `json:"serverName,omitempty"`
	// SANs are the names of which the certificate must have one.
	SANs []SubjectAltName `json:"sans,omitempty"`
	// CA holds the certificates that may have signed it, as PEM. "" stands for those that the system trusts.
	CA string `json:"ca,omitempty"`
}

// Key is that of the Service port.
func (b *BackendTLS) Key() string { return PortKey(b.Namespace, b.Service, b.Port, TCP) }

// SubjectAltName is a name of a certificate's subject (RFC 5280, 4.2.1.6): a DNS name or a URI.
type SubjectAltName struct {
	DNS string `json:"dns,omitempty"`
	URI string `json:"uri,omitempty"`
}
