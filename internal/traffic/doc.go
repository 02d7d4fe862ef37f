// Package traffic counts what workloads say to each other and gives it to Prometheus: connections, bytes, round trip times
// and retransmits, from the flows that the agent sees. They are counted by the owners of pods, never by pod.
//
// What a tenant can make is bounded: see MaxSets and MaxSetsPerNamespace. What finds no room is counted in sets whose
// workloads are named "overflow". A set that nothing was counted in for IdleTime is forgotten.
package traffic
