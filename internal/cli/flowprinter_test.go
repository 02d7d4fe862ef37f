package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/observe"
)

func TestFlowsOnATerminal(t *testing.T) {
	var out strings.Builder
	p := flowPrinter{w: &out, colours: true, zone: time.FixedZone("here", 2*3600), date: true}
	for _, v := range []observe.Verdict{observe.Forwarded, observe.Refused, observe.Failed} {
		// A name that holds a verdict stays as it is; what controls a terminal does not get through.
		f := &observe.Flow{Time: time.Unix(1900000000, 0), Verdict: v, Layer: observe.L4, Source: observe.Peer{Workload: "refused/\x1b[5m"}}
		if err := p.print("n1", observe.Event{Flow: f}); err != nil {
			t.Fatal(err)
		}
	}
	want := "n1  2030-03-17T19:46:40.000+02:00  \x1b[32mforwarded\x1b[0m  L4    refused/�[5m -> unknown  0 B out, 0 B in\n" +
		"n1  2030-03-17T19:46:40.000+02:00  \x1b[31mrefused\x1b[0m    L4    refused/�[5m -> unknown\n" +
		"n1  2030-03-17T19:46:40.000+02:00  \x1b[33mfailed\x1b[0m     L4    refused/�[5m -> unknown\n"
	if out.String() != want {
		t.Errorf("%q, want\n%q", out.String(), want)
	}
}

func TestRefusalNamesPolicies(t *testing.T) {
	f := &observe.Flow{Verdict: observe.Refused, Reason: "no policy allows it", Policies: []string{"a/1", "a/2", "a/3", "a/4"}}
	if got, want := details(f), "no policy allows it: a/1,a/2,a/3,+1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestDNSOnALine(t *testing.T) {
	f := &observe.Flow{Verdict: observe.Forwarded, DNS: &observe.DNS{Name: "web", Type: "A", Code: "NOERROR", Answers: 2}, Duration: 2 * time.Millisecond}
	if got, want := details(f), "A web NOERROR, 2 answers, 0 B out, 0 B in, took 2ms"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	f = &observe.Flow{Verdict: observe.Failed, DNS: &observe.DNS{Name: "web", Type: "A"}, Reason: "no answer within 5s"}
	if got, want := details(f), "A web, no answer within 5s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestRulesOnALine: a line has the rule of a route, and a wide one that of a policy too.
func TestRulesOnALine(t *testing.T) {
	f := &observe.Flow{
		Verdict: observe.Forwarded, SeenAt: observe.AtBoth, Route: "HTTPRoute/shop/web/1", AllowedBy: "AuthorizationPolicy/shop/web/0",
		HTTP: &observe.Request{Method: "GET", Host: "web", Path: "/", Status: 200, Backend: "shop/web-1"},
	}
	if got, want := details(f), "GET web/ 200 by shop/web-1, HTTPRoute/shop/web/1, 0 B out, 0 B in"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := wideDetails(f), "TCP, seen at both ends, allowed by AuthorizationPolicy/shop/web/0"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
