// Package mtls gives the identities of this node's workloads and gateways their certificates, and keeps them fresh.
//
//	st.Workloads (local), st.Gateways ── Manager ──> st.SVIDs, st.Bundles ──> package xds, which serves them to Envoy
//	                                        │
//	                                      Source: this node's own CA (CA), or the cluster's (Remote, package internal/ca)
//
// SVIDs are X.509-SVIDs (https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md): short-lived, renewed at
// about half of their life, long before the old one ends; connections that were accepted with the old one go on.
//
// | file | idea |
// |---|---|
// | ca.go | the built-in CA: opening it, signing |
// | roots.go, store.go | its roots: several may be trusted at once, one signs; their files |
// | remote.go, protocol.go | the cluster's CA, as a node sees it |
// | svid.go, svidstore.go | what is an SVID and a bundle; where they are kept over restarts |
// | identity.go | which SPIFFE IDs the mesh accepts |
// | manager.go, schedule.go | who needs an SVID, and when |
package mtls
