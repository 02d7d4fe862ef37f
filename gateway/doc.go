// Package gateway translates what users wrote (Kubernetes and Gateway API objects) into the mesh's model and into status.
//
// Every item of the model is made by a function of a snapshot, without side effects: a unit. The Translator remembers
// what each unit read (state.Deps) and runs it again only when that changed, so the cost of a change follows what it
// touches and not the size of the cluster. Units run in levels; what a level writes, the next may read:
//
//	level 0  addresses    which Gateway has which addresses (the only unit that remembers: an address does not move)
//	level 1  route        HTTPRoute, GRPCRoute -> its rules and where they attach, and its status
//	         certificate  Secret -> certificate
//	level 2  workload     Pod -> workload with identity and policy
//	         service      Service -> service, its L7 ports and their route tables
//	         endpoints    Service -> the backends of its ports
//	         gateway      Gateway -> listeners, route tables, status
//	         class, policy, pool: status alone
//
// Files: translator.go and units.go are the engine; attach.go, listener.go, table.go tie routes to parents; httproute.go,
// grpcroute.go, match.go, filter.go, backend.go read routes; validate.go is what stands between a manifest and Envoy.
//
// Where the Gateway API leaves a choice:
//   - A rule that is not valid is dropped and the rest of its route is served (condition PartiallyInvalid, "Dropped
//     Rule"); a route with no valid rule is not accepted. A rule whose filter is an unsupported extension or external
//     authorization answers 500 instead, for leaving it out could open what the filter was to close.
//   - Regular expression paths come after exact and before prefix paths, the longer expression first.
//   - Listeners of one port with different hostnames are isolated (GatewayHTTPListenerIsolation). Within a listener a
//     request that no rule of the most specific hostname matches falls to the rules of less specific ones.
//   - With a Service as parent (GEP-1294) hostnames are ignored, backends of other namespaces need no ReferenceGrant,
//     and headless and ExternalName Services are no parents.
package gateway
