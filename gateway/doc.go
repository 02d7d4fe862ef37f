// Package gateway translates what users wrote (Kubernetes and Gateway API objects) into the mesh's model and into status.
//
// Each row of the model is made by a unit: a function of a snapshot and the configuration, without side effects. The
// Translator records what each unit read (state.Deps) and runs it again only when that changed, so the cost of a change
// follows what it touches and not the size of the cluster. Units run in stages; later stages read what earlier ones wrote:
//
//	addresses   addresses    which Gateway has which addresses
//	listeners   listeners    Gateway, with its ListenerSets -> the listeners of each, in the order in which they count
//	demands     demand       Service, HTTPRoute, GRPCRoute -> what it would take of the kernel's tables, or of Envoy
//	budgets     budget       which of them do not get that
//	conflicts   conflict     Gateway, ListenerSet -> the routes that conflict with an older one
//	routes      route        HTTPRoute, GRPCRoute -> its rules, where they attach, and its status
//	            route        TLSRoute, TCPRoute, UDPRoute -> what its connections or datagrams are divided among, and the same
//	            certificate  Secret -> certificate
//	            backend TLS  Service -> the BackendTLSPolicy of each port
//	            telemetry    Gateway -> its XTelemetryPolicy
//	model       workload     Pod -> workload with identity and policy
//	            service      Service -> service, its L7 ports and their route tables
//	            endpoints    Service -> the backends of its ports
//	            gateway      Gateway -> listeners, route tables, status
//	            class, mesh, policy, BackendTLSPolicy, XTelemetryPolicy, pool, ListenerSet: status alone
//	divisions   division     TCPRoute -> what is behind its backends, for the ports of Services that it has
//
// A kind of unit is one value of type unitKind, which is listed in unitKinds.
//
// Files:
//
//	translator.go, unit.go, view.go       the engine
//	attach.go, listener.go, table.go      routes and their parents
//	listenerset.go, listenersetstatus.go  ListenerSets
//	httproute.go, grpcroute.go, streamroute.go, division.go, match.go, filter.go, backend.go
//	                                      routes alone
//	backendtls.go, backendtlsstatus.go, clientcertificate.go, cabundle.go
//	                                      TLS to backends, certificates of clients, and those of authorities
//	telemetry.go, spanattribute.go, telemetrystatus.go
//	                                      traces of Gateways, by XTelemetryPolicies
//	demand.go, budget.go                  what a namespace may have of the kernel's tables
//	routebudget.go, hostbudget.go, patternbudget.go, expression.go, policybudget.go
//	                                      what it may have of Envoy
//	serviceaddress.go, addresses.go, ports.go
//	                                      which addresses and ports Services and Gateways may have
//	validate.go                           what stands between a manifest and Envoy
//
// Tests: testdata/<case>.yaml holds objects, <case>.model.yaml and <case>.status.yaml what becomes of them; go test
// -update writes these anew. api_test.go decides about every field of the API.
//
// Where the Gateway API leaves a choice:
//   - A rule that is not valid is dropped and the rest of its route is served (condition PartiallyInvalid, "Dropped
//     Rule"). A route with no valid rule is not accepted. A rule with a filter that may decide who is let through
//     (ExternalAuth, ExtensionRef) answers 500 instead: without it, its requests could match a rule that lets them in.
//   - A field that a newer CRD has and the types here do not may say who is let in. A rule with one answers 500, or passes no
//     connection on (PartiallyInvalid; if it may be about all rules, Accepted is False, and they still answer 500); a listener with one
//     is not accepted; a BackendTLSPolicy is not valid; a ReferenceGrant grants nothing.
//   - Regular expression paths come after exact and before prefix paths, the longer expression first.
//   - Listeners of one port with different hostnames are isolated (GatewayHTTPListenerIsolation). Within a listener, a
//     request that no rule of the most specific hostname matches is matched with the rules of less specific ones.
//   - A BackendTLSPolicy holds wherever Envoy makes connections to its targets: for Gateways, for Services with routes or L7,
//     for copies of requests, and for TCPRoutes and TLSRoutes whose TLS ends at the Gateway. Bytes that pass through, and those
//     that no route applies to, go as the client sends them. Its ancestors are the Gateways, and the Services, whose routes
//     lead to a target. References to several ConfigMaps, and several certificates in one, are supported. A policy with
//     options is not valid. What an invalid policy selects is sent nothing. A name with a wildcard in subjectAltNames is
//     compared as text with those in the certificate.
//   - Of several XTelemetryPolicies for a Gateway the oldest is in force, also while it is not valid: the Gateway is traced as
//     without a policy then, and another one takes its place once it is gone. Where its collector cannot be found, nothing is
//     traced. Span attributes that are not known are left out (condition PartiallyInvalid). ImplementationDefault of
//     parentBasedSampling is Disabled.
//   - A ListenerSet is served while its Gateway is accepted by its own listeners. Of conflicting listeners of one Gateway none is
//     served; of those of ListenerSets (GEP-1713) the first is, also within one ListenerSet.
//   - With a Service as parent (GEP-1294) hostnames are ignored, backends of other namespaces need no ReferenceGrant,
//     and headless and ExternalName Services are not parents. Of several TCPRoutes for one port and the
//     same callers the oldest is served, after HTTPRoutes and GRPCRoutes for these. HTTPRoutes of other namespaces come after
//     the TCPRoutes of the Service's own.
package gateway
