package model

import "strings"

// Names of what Envoy counts of requests: <RequestScope>.<RequestsAnswered>.<tag>.<value>.<tag>.<value>...
// Tags begin with a bar, which is in no name of Kubernetes, so that values may hold dots.
const (
	RequestScope = "weft"
	// RequestsAnswered is a histogram of the durations of the requests whose answer is complete.
	RequestsAnswered = "answered"
	// RequestsFailed is a counter of the requests that have a flag of Envoy's. Some of them have a complete answer too.
	RequestsFailed = "failed"

	TagReporter = "|by"
	// TagSource is PeerTag of the workload or Gateway whose listener it is: the source, or at a destination the destination.
	TagSource = "|own"
	// TagPeer is PeerTag of the endpoint at a source or a Gateway, and the client's SPIFFE ID at a destination.
	TagPeer = "|peer"
	// TagAddress is the address and port that a source asked for, and the client's address at a destination.
	TagAddress = "|addr"
	TagCluster = "|cluster"
	// TagCode is the code of the answer, or its first digit where nobody asks for codes.
	TagCode  = "|code"
	TagFlags = "|flags"
	TagGRPC  = "|grpc"
	// TagPolicy is "denied" where a policy refused the request.
	TagPolicy = "|policy"
)

// DurationBuckets are the upper bounds of the buckets of durations, in microseconds.
var DurationBuckets = []float64{500, 1e3, 2500, 5e3, 1e4, 25e3, 5e4, 1e5, 25e4, 5e5, 1e6, 25e5, 5e6, 1e7, 3e7}

// MaxRequestsAnswered and MaxRequestsFailed limit the histograms and counters that an Envoy keeps for the listeners of a
// namespace, by reporter.
const (
	MaxRequestsAnswered = 500
	MaxRequestsFailed   = 500
)

// RequestStats is what an Envoy has counted of requests since it started.
type RequestStats struct {
	// Answered and Failed are by Envoy's names: see RequestTags.
	Answered map[string]DurationStats
	Failed   map[string]uint64
	// Completed counts the requests of each kind of listener, by its prefix of statistics, also those that had no room in
	// Answered or Failed.
	Completed map[string]uint64
}

// DurationStats is a histogram of durations in microseconds.
type DurationStats struct {
	// Cumulative counts the requests up to each of DurationBuckets and, at the end, all.
	Cumulative []uint64
	Sum        float64
}

// Since returns what was added to a histogram after before. One that has less than before, or other buckets, has begun anew.
func (d DurationStats) Since(before DurationStats) DurationStats {
	n := len(d.Cumulative)
	if n == 0 || n != len(before.Cumulative) || before.Cumulative[n-1] > d.Cumulative[n-1] {
		return d
	}
	out := DurationStats{Cumulative: make([]uint64, n), Sum: max(0, d.Sum-before.Sum)}
	for i, c := range d.Cumulative {
		out.Cumulative[i] = max(c, before.Cumulative[i]) - before.Cumulative[i]
	}
	return out
}

// RequestTags are the tags in their order in names. To Envoy they are one tag: the others are in the value of the first.
var RequestTags = []string{TagReporter, TagSource, TagAddress, TagPeer, TagCluster, TagCode, TagFlags, TagGRPC, TagPolicy}

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
