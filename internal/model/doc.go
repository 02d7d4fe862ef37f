// Package model holds the nouns of the mesh: what every plane talks about and none of them owns.
//
// Values are immutable once they are in a table of package state: whoever wants another value builds a new one.
// The package uses the standard library only; Kubernetes, Envoy and eBPF types stay in the planes that need them.
package model
