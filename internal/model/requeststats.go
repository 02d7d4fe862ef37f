package model

import "strings"

// Names of what Envoy counts of requests: <RequestScope>.<RequestCounter>.<tag>.<value>.<tag>.<value>...
// Tags begin with a bar, which is in no name of Kubernetes, so that values may hold dots.
const (
	RequestScope    = "weft"
	RequestCounter  = "requests"
	RequestDuration = "duration"
	// CopyCounter counts copies of requests for mirrors: its tags are TagCluster, TagAsked, TagCode and TagFlags.
	CopyCounter = "copies"

	TagReporter = "|by"
	// TagSource is PeerTag of the workload or Gateway whose listener it is: the source, or at a destination the destination.
	TagSource = "|own"
	// TagPeer is PeerTag of the endpoint at a source or a Gateway, and the client's SPIFFE ID at a destination.
	TagPeer = "|peer"
	// TagAddress is the address and port that a source asked for, and the client's address at a destination.
	TagAddress = "|addr"
	TagCluster = "|cluster"
	// TagAsked is the cluster that a copy is for.
	TagAsked = "|asked"
	TagCode  = "|code"
	TagFlags = "|flags"
	TagGRPC  = "|grpc"
	// TagPolicy is "denied" where a policy refused the request.
	TagPolicy = "|policy"
)

// DurationBuckets are the upper bounds of the buckets of durations, in microseconds.
var DurationBuckets = []float64{500, 1e3, 2500, 5e3, 1e4, 25e3, 5e4, 1e5, 25e4, 5e5, 1e6, 25e5, 5e6, 1e7, 3e7}

// MaxRequestCounters and MaxRequestDurations limit what an Envoy keeps for the listeners of a namespace, by reporter. A
// histogram is several times as large as a counter.
const (
	MaxRequestCounters  = 1000
	MaxRequestDurations = 250
)

// RequestStats is what an Envoy has counted of requests since it started.
type RequestStats struct {
	// Counters and Durations are by Envoy's names: see RequestTags.
	Counters  map[string]uint64
	Durations map[string]DurationStats
	// Completed counts the requests of each kind of listener, by its prefix of statistics, also those that had no room in
	// Counters.
	Completed map[string]uint64
}

// DurationStats is a histogram of durations in microseconds.
type DurationStats struct {
	// Cumulative counts the requests up to each of DurationBuckets and, at the end, all.
	Cumulative []uint64
	Sum        float64
}

// RequestTags and DurationTags are the tags in their order in names. To Envoy they are one tag: the others are in the value of
// the first.
var (
	RequestTags = []string{TagReporter, TagSource, TagAddress, TagPeer, TagCluster, TagCode, TagFlags, TagGRPC, TagPolicy}
	// DurationTags lack what would multiply histograms.
	DurationTags = []string{TagReporter, TagSource, TagAddress, TagPeer, TagCluster}
)

// PeerTag describes a workload or Gateway in a tag: "namespace/kind/name" and its SPIFFE ID, if it has one.
func PeerTag(namespace string, owner Owner, id Identity) string {
	s := namespace + "/" + owner.String()
	if id != "" {
		s += " " + string(id)
	}
	return s
}

// ParsePeerTag reads what PeerTag returns.
func ParsePeerTag(s string) (namespace string, owner Owner, id Identity, ok bool) {
	s, spiffe, _ := strings.Cut(s, " ")
	namespace, rest, ok := strings.Cut(s, "/")
	if !ok {
		return "", Owner{}, "", false
	}
	if owner, ok = ParseOwner(rest); !ok {
		return "", Owner{}, "", false
	}
	return namespace, owner, Identity(spiffe), true
}
