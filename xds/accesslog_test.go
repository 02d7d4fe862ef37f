package xds

import (
	"strings"
	"testing"
	"unicode/utf8"

	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestRequestsOfFlowsAreCut: flows are kept by number, so a client must not choose how large one is.
func TestRequestsOfFlowsAreCut(t *testing.T) {
	f := httpFlow(&data.HTTPAccessLogEntry{Request: &data.HTTPRequestProperties{
		Path: "/" + strings.Repeat("é", 30_000), Authority: strings.Repeat("a", 30_000),
	}}, logRequest)
	for what, c := range map[string]struct {
		text string
		most int
	}{"path": {f.Request.Path, maxLoggedPath}, "authority": {f.Request.Authority, maxAuthority}} {
		if len(c.text) > c.most || len(c.text) < c.most-8 || !utf8.ValidString(c.text) || !strings.HasSuffix(c.text, "…") {
			t.Errorf("the %s has %d bytes, want at most %d: %.20q", what, len(c.text), c.most, c.text)
		}
	}
	short := httpFlow(&data.HTTPAccessLogEntry{Request: &data.HTTPRequestProperties{Path: "/a?b=c", Authority: "web.shop"}}, logRequest)
	if short.Request.Path != "/a?b=c" || short.Request.Authority != "web.shop" {
		t.Errorf("a short request became %+v", short.Request)
	}
}

// What an application answers is no failure; what Envoy answers in its place is one.
func TestAnswersOfTheApplication(t *testing.T) {
	for _, test := range []struct {
		status  uint32
		details string
		flags   *data.ResponseFlags
		want    string
	}{
		{200, "via_upstream", nil, ""},
		{404, "via_upstream", nil, ""},
		{503, "via_upstream", nil, ""},
		{404, "route_not_found", &data.ResponseFlags{NoRouteFound: true}, "no_route_found: route_not_found"},
		{403, "rbac_access_denied_matched_policy[none]", nil, "rbac_access_denied_matched_policy[none]"},
		{503, "no_healthy_upstream", &data.ResponseFlags{NoHealthyUpstream: true}, "no_healthy_upstream: no_healthy_upstream"},
		{200, "via_upstream", &data.ResponseFlags{UpstreamConnectionTermination: true}, "upstream_connection_termination: via_upstream"},
		{301, "direct_response", nil, ""},
	} {
		e := &data.HTTPAccessLogEntry{
			CommonProperties: &data.AccessLogCommon{ResponseFlags: test.flags},
			Response:         &data.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(test.status), ResponseCodeDetails: test.details},
		}
		for _, log := range []string{logRequest, logRequestOut} {
			if got := httpFlow(e, log).Failure; got != test.want {
				t.Errorf("%d %s: failure %q, want %q", test.status, test.details, got, test.want)
			}
		}
	}
}

// TestIdentitiesOfRequests: a request has the identities of both ends where both have proven them.
func TestIdentitiesOfRequests(t *testing.T) {
	const alice, srv = "spiffe://td/ns/a/sa/alice", "spiffe://td/ns/a/sa/srv"
	for name, test := range map[string]struct {
		log, peer, details string
		want               bool
	}{
		"at the source":                 {logRequestOut, srv, detailsUpstream, true},
		"at the source, not answered":   {logRequestOut, srv, "upstream_reset_before_response_started", false},
		"at the source, in the clear":   {logRequestOut, "-", detailsUpstream, false},
		"at the destination":            {logRequest, srv, detailsUpstream, true},
		"at the destination, refused":   {logRequest, srv, "rbac_access_denied_matched_policy[none]", true},
		"at the destination, in clear":  {logRequest, "", detailsUpstream, false},
		"at the destination, malformed": {logRequest, "srv", detailsUpstream, false},
	} {
		f := httpFlow(&data.HTTPAccessLogEntry{
			CommonProperties: &data.AccessLogCommon{CustomTags: map[string]string{tagLocal: alice, tagPeer: test.peer}},
			Response:         &data.HTTPResponseProperties{ResponseCodeDetails: test.details},
		}, test.log)
		if got := f.Local == alice && f.Peer == srv; got != test.want || !got && f.Local+f.Peer != "" {
			t.Errorf("%s: local %q, peer %q", name, f.Local, f.Peer)
		}
	}
}

// What Envoy calls injected faults are refusals of ours at a Gateway, whose status says which, and nothing of ours elsewhere.
func TestRefusalsAreNoFaults(t *testing.T) {
	for _, test := range []struct {
		log, details string
		status       uint32
		want         string
	}{
		{logRequest, "fault_filter_abort", 400, "malformed_host"},
		{logRequest, "fault_filter_abort", 508, "gateway_loop"},
		{logRequest, "fault_filter_delay_timeout", 400, "fault_filter_delay_timeout"},
		{logRequestOut, "fault_filter_abort", 400, "fault_filter_abort"},
		{logIn, "fault_filter_abort", 400, "fault_filter_abort"},
	} {
		e := &data.HTTPAccessLogEntry{
			CommonProperties: &data.AccessLogCommon{ResponseFlags: &data.ResponseFlags{FaultInjected: true}},
			Response:         &data.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(test.status), ResponseCodeDetails: test.details},
		}
		if got := httpFlow(e, test.log).Failure; got != test.want {
			t.Errorf("%s in the log %s: failure %q, want %q", test.details, test.log, got, test.want)
		}
	}
}

// TestNamedEntries: an entry of a connection that was passed on by its server name says both ends and the route; one of a connection
// that went nowhere says nothing.
func TestNamedEntries(t *testing.T) {
	entry := func(cluster string, tags map[string]string) *data.TCPAccessLogEntry {
		return &data.TCPAccessLogEntry{CommonProperties: &data.AccessLogCommon{UpstreamCluster: cluster, CustomTags: tags}}
	}
	tags := map[string]string{tagOwner: "shop/app", tagClient: "127.0.0.1:40000", tagService: "10.96.0.1:443", tagSource: "10.0.0.1:50000"}
	f := tcpFlow(entry("stream/TLSRoute/shop/a|mesh", tags), logNamed)
	if f == nil || f.Named == nil || f.Owner != "shop/app" || !f.Outbound || f.Source.String() != "127.0.0.1:40000" ||
		f.Named.Route != "TLSRoute/shop/a" || f.Named.Service.String() != "10.96.0.1:443" || f.Named.Onward.String() != "10.0.0.1:50000" {
		t.Errorf("%+v", f)
	}
	for what, e := range map[string]*data.TCPAccessLogEntry{
		"no endpoint was reached": entry("stream/TLSRoute/shop/a|mesh", map[string]string{tagOwner: "shop/app", tagClient: "127.0.0.1:40000", tagSource: "-"}),
		"the client is not known": entry("stream/TLSRoute/shop/a|mesh", map[string]string{tagOwner: "shop/app", tagClient: "-", tagSource: "10.0.0.1:50000"}),
		"another cluster":         entry("service/shop/web/80", tags),
	} {
		if f := tcpFlow(e, logNamed); f != nil {
			t.Errorf("%s: %+v", what, f)
		}
	}
}

// TestStreamsOfFlows: only a UUID is taken for the name of a connection. It is a header, which any peer of the mesh may choose.
func TestStreamsOfFlows(t *testing.T) {
	const good = "01234567-89ab-4cde-8f01-23456789abcd"
	for tag, want := range map[string]string{
		good: good, strings.ToUpper(good): strings.ToUpper(good), "": "", "-": "",
		strings.Repeat("a", lenStreamID): "", strings.Repeat("?", lenStreamID): "", good + "0": "", good[:lenStreamID-1]: "",
		"01234567-89ab-4cde-8f01-23456789abcg": "", "012345678-9ab-4cde-8f01-23456789abcd": "", "ä" + good[2:]: "", good[:lenStreamID-1] + "\x00": "",
	} {
		e := &data.HTTPAccessLogEntry{CommonProperties: &data.AccessLogCommon{CustomTags: map[string]string{tagStream: tag}}}
		if got := httpFlow(e, logIn).Stream; got != want {
			t.Errorf("%q is taken for %q, want %q", tag, got, want)
		}
	}
}
