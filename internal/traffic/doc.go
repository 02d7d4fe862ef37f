// Package traffic counts what workloads say to each other and gives it to Prometheus: requests and their durations, from
// the statistics of the node's Envoy, and connections, bytes, round trip times and retransmits, exchanges by UDP and questions
// to DNS, from the flows that the agent sees. All are counted by the owners of pods, never by pod.
//
// What a tenant can make is bounded: see MaxSets and MaxSetsPerNamespace. What finds no room is counted in sets whose
// workloads are named "overflow". A set that nothing was counted in for IdleTime is forgotten.
package traffic
