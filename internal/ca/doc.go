// Package ca is the cluster's certificate authority. It runs in every replica of the controller; all of them sign.
//
//	Secret weft-ca: roots ──> roots that sign ──> an intermediate of this process ──> SVIDs, for agents (server.go)
//	      └─────────────────> trust bundle ──> ConfigMap weft-trust-bundle, ClusterTrustBundle (the leader)
//
// The Secret is made by whoever comes first, and changed by whoever sees first that it is time; the API server's
// resourceVersion decides, and the others take what is there. Nothing else is shared, so a replica needs no leader.
//
// A new root is published before it signs, and signs only when it is seen in the published bundle. An old one leaves when
// all that it signed has ended.
//
// An agent gets an SVID for an identity if it proves by its ServiceAccount token which node it is on, and a pod with that
// identity is on that node (authorize.go). It never gets another, and of what it sends only key and SPIFFE ID are used.
//
// | file | idea |
// |---|---|
// | ca.go | the wiring: what every replica does, what the leader does |
// | secret.go, seal.go | roots in the Secret, which not everybody can use who reads it |
// | authority.go | the intermediate, the certificate of the service, signing |
// | csr.go, authorize.go, server.go, slots.go | what is asked, by whom, the answer, and how many at a time |
// | publish.go, trustbundle.go | the trust bundle |
package ca
