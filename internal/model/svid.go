package model

import "time"

// SVID is an X.509-SVID with its private key: never print it.
type SVID struct {
	Identity            Identity
	ChainPEM, KeyPEM    []byte
	NotBefore, NotAfter time.Time
	Serial              string
}

// MarshalJSON leaves the key out.
func (s *SVID) MarshalJSON() ([]byte, error) { return []byte(`"` + string(s.Identity) + `"`), nil }

// String leaves the key out.
func (s *SVID) String() string { return string(s.Identity) + " serial " + s.Serial }

// Bundle holds the root certificates of a trust domain.
type Bundle struct {
	TrustDomain string
	PEM         []byte
}
