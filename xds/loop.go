package xds

import (
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// A Gateway's backend may be a Gateway, and so a route can lead a request back to where it came from. Each Gateway writes a
// mark into a header, after all changes that routes make, so that no route can take it away. A Gateway answers 508 to a request
// with too many. Without that, one request became 6,000 at once and took 700 MB of Envoy's heap.
const (
	passedHeader = "x-weft-passed"
	passedMark   = "."
	// maxPasses is the number of Gateways that a request may pass.
	maxPasses = 8
	// copyPasses is what a copy of a request counts for: it may pass one more Gateway, whose own copies of it may pass none.
	// Else a Gateway that sends itself copies would multiply them at each turn.
	copyPasses = maxPasses - 2
)

// markPassed adds marks to a request. A client may send marks of its own: they count.
func markPassed(marks int) *core.HeaderValueOption {
	return setHeader(passedHeader, "%REQ("+passedHeader+")%"+strings.Repeat(passedMark, marks))
}

// refuseLoops answers 508 to a request that has passed too many Gateways.
func refuseLoops(m *hcm.HttpConnectionManager) {
	abortWhere(m, 508, headerMatch(passedHeader, &matcher.StringMatcher{
		MatchPattern: &matcher.StringMatcher_Contains{Contains: strings.Repeat(passedMark, maxPasses)},
	}))
}
