package agent

import (
	"net/netip"
	"testing"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/xds"
)

func flowsOf(t *testing.T, report func(a *Agent)) []observe.Flow {
	t.Helper()
	a := &Agent{st: state.New(state.NewDB()), flows: observe.NewStore(8)}
	report(a)
	var out []observe.Flow
	for _, e := range a.flows.List(observe.Filter{}, 8) {
		out = append(out, *e.Flow)
	}
	return out
}

func TestConnectionVerdicts(t *testing.T) {
	end := netip.MustParseAddrPort("10.0.0.1:80")
	for name, c := range map[string]struct {
		event   datapath.Event
		verdict observe.Verdict
		reason  string
	}{
		"answered":                  {datapath.Event{Kind: datapath.EventClosed, Sent: 1}, observe.Forwarded, ""},
		"never answered":            {datapath.Event{Kind: datapath.EventClosed}, observe.Failed, "never established"},
		"came in and was silent":    {datapath.Event{Kind: datapath.EventClosed, Inbound: true}, observe.Forwarded, ""},
		"dropped before it came in": {datapath.Event{Kind: datapath.EventRefused, Inbound: true, Reason: datapath.ReasonPlaintext}, observe.Refused, "plaintext to a strict workload"},
	} {
		c.event.Verdict, c.event.Local, c.event.Remote, c.event.Original = datapath.VerdictKernel, end, end, end
		got := flowsOf(t, func(a *Agent) { a.connection(c.event) })
		if len(got) != 1 || got[0].Verdict != c.verdict || got[0].Reason != c.reason {
			t.Errorf("%s: %+v, want %s %q", name, got, c.verdict, c.reason)
		}
	}
}

func TestAccessLogVerdicts(t *testing.T) {
	for failure, want := range map[string]struct {
		verdict observe.Verdict
		reason  string
	}{
		"": {observe.Forwarded, ""},
		"rbac_access_denied_matched_policy[none]":                                         {observe.Refused, "no policy allows it"},
		"upstream_connection_failure, upstream_retry_limit_exceeded: tunnel_response:403": {observe.Refused, "no policy of the destination allows it"},
		"upstream_connection_failure, upstream_retry_limit_exceeded: tunnel_response:503": {observe.Failed, "upstream_connection_failure, upstream_retry_limit_exceeded: tunnel_response:503"},
	} {
		got := flowsOf(t, func(a *Agent) { a.accessLog(&xds.Flow{Failure: failure}) })
		if len(got) != 1 || got[0].Verdict != want.verdict || got[0].Reason != want.reason {
			t.Errorf("%q: %+v, want %+v", failure, got, want)
		}
	}
}
