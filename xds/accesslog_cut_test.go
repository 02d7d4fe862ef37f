package xds

import (
	"strings"
	"testing"
	"unicode/utf8"

	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
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
