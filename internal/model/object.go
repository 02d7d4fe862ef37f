package model

import (
	"fmt"
	"strings"
)

// ObjectRef names an object that a user wrote. Group is "" for the core group.
type ObjectRef struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Key is the object's key in the table of its kind.
func (r ObjectRef) Key() string { return Key(r.Namespace, r.Name) }

// String gives Kind/namespace/name, or Kind/name for objects of the cluster.
func (r ObjectRef) String() string {
	if r.Namespace == "" {
		return r.Kind + "/" + r.Name
	}
	return r.Kind + "/" + r.Namespace + "/" + r.Name
}

// ObjectVersion is an object at a generation. 0 stands for every generation: Secrets, for example, have none.
type ObjectVersion struct {
	ObjectRef
	Generation int64 `json:"generation,omitempty"`
}

// Matches reports whether v is about an object that has a generation now.
func (v ObjectVersion) Matches(generation int64) bool {
	return v.Generation == 0 || v.Generation == generation
}

// Key joins namespace and name the way that the keys of all tables do.
func Key(namespace, name string) string { return namespace + "/" + name }

// SplitKey is the inverse of Key.
func SplitKey(key string) (namespace, name string) {
	namespace, name, _ = strings.Cut(key, "/")
	return namespace, name
}

// Protocol is a transport protocol.
type Protocol uint8

// The values are the IANA protocol numbers, as the kernel uses them.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

func (p Protocol) String() string {
	if p == UDP {
		return "UDP"
	}
	return "TCP"
}

// MarshalText gives "TCP" or "UDP".
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads "TCP" or "UDP".
func (p *Protocol) UnmarshalText(text []byte) error {
	switch string(text) {
	case "TCP":
		*p = TCP
	case "UDP":
		*p = UDP
	default:
		return fmt.Errorf("protocol %q is neither TCP nor UDP", text)
	}
	return nil
}
