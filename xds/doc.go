// Package xds turns the model into Envoy resources and serves them by delta ADS on a unix socket.
//
// A resource is built when an Envoy asks for it, remembers what it read from the tables, is built again alone when
// that changes, is sent only if its content changed, and is forgotten when nobody is subscribed to it. Versions are
// hashes of the content, so an agent that restarts sends an Envoy only what differs from what that Envoy has.
//
//	netns.go                      paths to network namespaces
//	names.go message.go           names that planes share; pieces that all resources are made of
//	server.go session.go ack.go   the gRPC server, one Envoy's subscriptions, refused resources
//	ondemand.go build.go          the cache: remember, build again, forget; wildcards; how a resource is built and encoded
//	calledports.go                how many ports of a namespace's Services Envoys are subscribed to
//	limit.go runtime.go           how many connections a listener may have, and how many sessions
//	listener.go inbound.go gateway.go http.go policy.go   listeners of pods and Gateways, authorization
//	filter.go authorization.go    filters that are served apart from listeners: a workload's policy, its scopes
//	detect.go                     connections that may or may not speak HTTP
//	part.go trial.go exclude.go   the rules of each route in a shared table: those that Envoy refuses are found and left out
//	scope.go route.go match.go action.go redirect.go mirror.go   original destination -> route table -> cluster
//	stream.go datagrams.go        connections and datagrams of Gateways, which no HTTP is read from
//	cluster.go endpoint.go tls.go secret.go   where requests go, as whom and to whom
//	accesslog.go                  Envoy's access log service -> Flow
//	trace.go export.go spantag.go spans, of the mesh and as an XTelemetryPolicy says
//
// Tests: testdata/<case>.yaml shows what a small model becomes (go test ./xds -update writes it), and a real Envoy
// takes each of them; what rules, policies and identities do is asked of real Envoys in network namespaces (root).
//
// # What pods' namespaces must hold
//
// Envoy's connections to the app carry the client's address and the mark [OriginalSourceMark]. For the answers to come
// back: ip rule fwmark 1337 lookup T; ip route local default dev lo table T (both families); and the sysctls
// net.ipv4.tcp_fwmark_accept=1, net.ipv4.fwmark_reflect=1, net.ipv6.fwmark_reflect=1. Without the reflection the
// answer of a closed port is lost, and a refused connection takes 5 s to fail instead of none.
//
// # What the bootstrap must hold
//
// The bootstrap is written elsewhere. The resources of this package need there:
//   - node.id: any; it names the Envoy in logs. node.cluster: "weft".
//   - a static cluster [ClusterXDS] of type STATIC whose only endpoint is the pipe <run>/xds.sock, with
//     typed_extension_protocol_options envoy.extensions.upstreams.http.v3.HttpProtocolOptions
//     {explicit_http_config: {http2_protocol_options: {}}}. It carries ADS and the access logs.
//   - dynamic_resources: ads_config {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services:
//     [{envoy_grpc: {cluster_name: "xds"}}]}, lds_config and cds_config {ads: {}, resource_api_version: V3}.
//   - bootstrap_extensions: envoy.bootstrap.internal_listener with
//     envoy.extensions.bootstrap.internal_listener.v3.InternalListener.
//   - admin.address: the pipe <run>/envoy-admin.sock, mode 0600.
//   - re2.max_program_size.error_level in a static runtime layer: Envoy's own limit refuses ordinary expressions.
//   - no other cluster: the constant ones come by CDS. (A static cluster that takes its certificate on demand over
//     ADS crashes Envoy 1.40 at its start.)
//
// Clusters carry a stats_matcher of their own that keeps nothing per cluster, listeners a stat_prefix that all pods
// share, so the statistics do not grow with the mesh.
package xds
