package observe

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/weft-mesh/weft/internal/model"
)

func TestFilter(t *testing.T) {
	at := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	f := Flow{
		Time:        at,
		Protocol:    model.TCP,
		Source:      Peer{Address: netip.MustParseAddrPort("10.0.1.9:40000"), Workload: "shop/app-1", Identity: "spiffe://t/ns/shop/sa/app"},
		Destination: Peer{Address: netip.MustParseAddrPort("10.0.0.1:8080"), Workload: "store/web-1", Service: "store/web", Labels: map[string]string{"app": "web", "tier": ""}},
		Verdict:     Refused, Layer: MTLS, HTTP: &Request{Method: "GET", Path: "/api/v1", Status: 404},
	}
	v := func(s ...string) []string { return s }
	for _, c := range []struct {
		name string
		of   Terms
		want bool
	}{
		{"all", Terms{}, true},
		{"namespace of the source", Terms{Namespace: v("shop")}, true},
		{"namespace of the destination", Terms{Namespace: v("store")}, true},
		{"other namespace", Terms{Namespace: v("sho")}, false},
		{"one of two namespaces", Terms{Namespace: v("sho", "shop")}, true},
		{"not this namespace", Terms{Namespace: v("!shop")}, false},
		{"not another one", Terms{Namespace: v("!sho")}, true},
		{"one, and not the other", Terms{Namespace: v("shop", "!store")}, false},
		{"label", Terms{Label: v("app=web")}, true},
		{"label with any value", Terms{Label: v("app")}, true},
		{"label without a value", Terms{Label: v("tier=")}, true},
		{"other value", Terms{Label: v("app=we")}, false},
		{"other label", Terms{Label: v("web")}, false},
		{"not this label", Terms{Label: v("!app=web")}, false},
		{"verdict", Terms{Verdict: v("refused")}, true},
		{"other verdict", Terms{Verdict: v("forwarded")}, false},
		{"one of two verdicts", Terms{Verdict: v("failed", "refused")}, true},
		{"not this verdict", Terms{Verdict: v("!refused")}, false},
		{"layer in another case", Terms{Layer: v("mtls")}, true},
		{"other layer", Terms{Layer: v("L4")}, false},
		{"protocol", Terms{Protocol: v("tcp")}, true},
		{"other protocol", Terms{Protocol: v("UDP")}, false},
		{"workload", Terms{To: v("store/web-1")}, true},
		{"service", Terms{To: v("store/web")}, true},
		{"either end, the source", Terms{Peer: v("shop/app-1")}, true},
		{"either end, the destination by its port", Terms{Peer: v(":8080")}, true},
		{"neither end", Terms{Peer: v("store/app-1")}, false},
		{"neither of these", Terms{Peer: v("!store/", "!bank/")}, false},
		{"service of another namespace", Terms{To: v("shop/web")}, false},
		{"name alone", Terms{From: v("app-1")}, true},
		{"all of a namespace", Terms{From: v("shop/")}, true},
		{"none of a namespace", Terms{To: v("shop/")}, false},
		{"not to a namespace", Terms{To: v("!store/")}, false},
		{"name and port", Terms{To: v("store/web:8080")}, true},
		{"other port", Terms{To: v("store/web:80")}, false},
		{"port alone", Terms{To: v(":8080")}, true},
		{"address", Terms{From: v("10.0.1.9")}, true},
		{"mapped address", Terms{From: v("::ffff:10.0.1.9")}, true},
		{"address and port", Terms{From: v("10.0.1.9:40000")}, true},
		{"network", Terms{From: v("10.0.1.0/24")}, true},
		{"other network", Terms{From: v("10.0.2.0/24")}, false},
		{"identity", Terms{From: v("spiffe://t/ns/shop/sa/app")}, true},
		{"other identity", Terms{From: v("spiffe://t/ns/shop/sa/ap")}, false},
		{"both ends", Terms{From: v("shop/"), To: v("shop/")}, false},
		{"method in another case", Terms{Method: v("get")}, true},
		{"other method", Terms{Method: v("POST")}, false},
		{"status", Terms{Status: v("404")}, true},
		{"class of statuses", Terms{Status: v("5xx", "4xx")}, true},
		{"other class", Terms{Status: v("5XX")}, false},
		{"range of statuses", Terms{Status: v("400-410")}, true},
		{"not this status", Terms{Status: v("!404")}, false},
		{"path", Terms{Path: v("/api/v1")}, true},
		{"part of the path", Terms{Path: v("/api")}, false},
		{"begin of the path", Terms{Path: v("/api/*")}, true},
		{"any path", Terms{Path: v("*")}, true},
		{"since then", Terms{Since: at}, true},
		{"since later", Terms{Since: at.Add(1)}, false},
		{"until then", Terms{Until: at}, true},
		{"until earlier", Terms{Until: at.Add(-1)}, false},
	} {
		if got := filter(t, c.of).Match(&f); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	f.HTTP = nil
	for _, c := range []struct {
		name string
		of   Terms
		want bool
	}{
		{"status of no request", Terms{Status: v("404")}, false},
		{"not this status, of no request", Terms{Status: v("!404")}, true},
		{"method of no request", Terms{Method: v("GET")}, false},
		{"path of no request", Terms{Path: v("*")}, false},
	} {
		if got := filter(t, c.of).Match(&f); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestBadTerms(t *testing.T) {
	for field, bad := range map[string][]Terms{
		"namespace": {{Namespace: []string{""}}, {Namespace: []string{"!"}}, {Namespace: slices.Repeat([]string{"a"}, maxTerms+1)}},
		"from":      {{From: []string{"a/b/c"}}, {From: []string{"10.0.0.0/99"}}, {From: []string{"fd00::/x"}}},
		"to":        {{To: []string{"!a:0"}}},
		"verdict":   {{Verdict: []string{"lost"}}},
		"layer":     {{Layer: []string{"L5"}}},
		"protocol":  {{Protocol: []string{"SCTP"}}},
		"method":    {{Method: []string{""}}},
		"status": {
			{Status: []string{"4"}}, {Status: []string{"xx"}}, {Status: []string{"500-400"}}, {Status: []string{"99"}},
			{Status: []string{"-1"}}, {Status: []string{"1000"}},
		},
		"path": {{Path: []string{"api"}}, {Path: []string{"/a*b"}}, {Path: []string{""}}},
	} {
		for _, terms := range bad {
			if _, err := terms.Filter(); err == nil || !strings.HasPrefix(err.Error(), field+": ") {
				t.Errorf("%+v: error %v does not begin with %q", terms, err, field)
			}
		}
	}
}

// TestLongTerms: an error repeats a part of a value that is long.
func TestLongTerms(t *testing.T) {
	long := strings.Repeat("ü", 1<<20)
	for _, terms := range []Terms{
		{From: []string{"a/b/" + long}}, {From: []string{"10.0.0.0/" + long}}, {From: []string{"spiffe://" + long}}, {To: []string{"a:" + long}}, {Verdict: []string{long}},
		{Layer: []string{long}}, {Protocol: []string{long}}, {Status: []string{long}}, {Path: []string{long}}, {Query: []string{"*" + long}}, {Label: []string{"=" + long}},
	} {
		_, err := terms.Filter()
		if err == nil || len(err.Error()) > 600 || !utf8.ValidString(err.Error()) {
			t.Errorf("%.200v", err)
		}
	}
}

func FuzzTerms(f *testing.F) {
	for _, s := range []string{"", "a/b", "a/b:1", "[::1]:80", "10.0.0.0/8", "spiffe://x/y", ":", "a/b/c", "fe80::1%eth0", "!x", "5xx", "4-5", "/a*", "tcp"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		one := []string{s}
		for _, terms := range []Terms{
			{Namespace: one}, {From: one}, {To: one}, {Verdict: one}, {Layer: one}, {Protocol: one}, {Method: one}, {Status: one}, {Path: one},
		} {
			if filter, err := terms.Filter(); err == nil {
				filter.Match(&Flow{})
				filter.Match(&Flow{HTTP: &Request{}})
			}
		}
	})
}
