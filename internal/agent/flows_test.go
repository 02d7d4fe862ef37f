package agent

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/traffic"
	"github.com/weft-mesh/weft/tunnel"
	"github.com/weft-mesh/weft/xds"
)

func flowsOf(t *testing.T, report func(a *Agent)) []observe.Flow {
	t.Helper()
	a := &Agent{st: state.New(state.NewDB()), flows: observe.NewStore(8)}
	a.detections, a.names = newDetections(a.flows.Add), newNames(a.flows.Add)
	a.connections, a.datagrams = traffic.NewConnections(a.st), traffic.NewDatagrams(a.st)
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

// TestLabelsOfKnownWorkloads: an end whose workload is known by other means than its address has the labels of that workload.
func TestLabelsOfKnownWorkloads(t *testing.T) {
	app := &model.Workload{Namespace: "shop", Name: "app", Labels: map[string]string{"app": "app"}}
	web := &model.Workload{Namespace: "shop", Name: "web", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Labels: map[string]string{"app": "web"}}
	loopback, taken := netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.1:40000")
	to := netip.MustParseAddrPort("10.96.0.1:80")
	for name, report := range map[string]func(a *Agent){
		"to Envoy": func(a *Agent) {
			a.connection(datapath.Event{Kind: datapath.EventClosed, Verdict: datapath.VerdictL7, Workload: app.Key(), Local: loopback, Remote: to, Original: to})
		},
		"its address is another's now": func(a *Agent) {
			a.tunnelFlow(&tunnel.Flow{Outbound: true, Workload: app.Key(), Source: taken, Destination: to})
		},
	} {
		got := flowsOf(t, func(a *Agent) {
			w := a.st.Write(a.st.Workloads)
			a.st.Workloads.Put(w, app)
			a.st.Workloads.Put(w, web)
			w.Commit()
			report(a)
		})
		if len(got) != 1 || got[0].Source.Workload != app.Key() || got[0].Source.Labels["app"] != "app" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestRefusalNamesPolicies: a flow that policies refused says which select its destination, whoever reports it.
func TestRefusalNamesPolicies(t *testing.T) {
	srv := netip.MustParseAddrPort("10.0.0.1:80")
	for name, report := range map[string]func(a *Agent){
		"weft tunnel, where it ends":   func(a *Agent) { a.tunnelFlow(&tunnel.Flow{Denied: true, Destination: srv}) },
		"weft tunnel, where it begins": func(a *Agent) { a.tunnelFlow(&tunnel.Flow{Denied: true, Outbound: true, Destination: srv}) },
		"Envoy, where it ends": func(a *Agent) {
			a.accessLog(&xds.Flow{Failure: "rbac_access_denied_matched_policy[none]", Destination: srv})
		},
		"Envoy, where it begins": func(a *Agent) {
			a.accessLog(&xds.Flow{Failure: "tunnel_response:403", Outbound: true, Destination: srv})
		},
	} {
		got := flowsOf(t, func(a *Agent) {
			w := a.st.Write(a.st.Workloads)
			a.st.Workloads.Put(w, &model.Workload{
				Namespace: "guard", Name: "srv", Addresses: []netip.Addr{srv.Addr()}, Policy: &model.Policy{Names: []string{"guard/one", "guard/two"}},
			})
			w.Commit()
			report(a)
		})
		if len(got) != 1 || got[0].Verdict != observe.Refused || !slices.Equal(got[0].Policies, []string{"guard/one", "guard/two"}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := flowsOf(t, func(a *Agent) { a.accessLog(&xds.Flow{Failure: "no_healthy_upstream", Destination: srv}) }); got[0].Policies != nil {
		t.Errorf("a failure names policies: %+v", got)
	}
}

// TestFlowsNameRules: a flow says which rule of a route took the request, and which rule of a policy let it in.
func TestFlowsNameRules(t *testing.T) {
	const alice, bob = "spiffe://td/ns/a/sa/alice", "spiffe://td/ns/a/sa/bob"
	srv := netip.MustParseAddrPort("10.0.0.1:80")
	rules := []model.PolicyRule{
		{Of: "alice", Sources: []model.PolicySource{{Identity: alice}}},
		{Of: "80", Ports: []uint16{80}},
		{Of: "reading", Ports: []uint16{81}, HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}},
		{Of: "posting", Ports: []uint16{81}, HTTP: []model.HTTPRule{{Methods: []string{"POST"}}}},
	}
	request := func(method string, at netip.AddrPort, outbound bool) func(*Agent) {
		return func(a *Agent) {
			a.accessLog(&xds.Flow{Destination: at, Outbound: outbound, Request: &xds.Request{Method: method, Path: "/x?y", Route: "HTTPRoute/shop/web/0"}})
		}
	}
	other := netip.AddrPortFrom(srv.Addr(), 81)
	for name, c := range map[string]struct {
		report           func(a *Agent)
		route, allowedBy string
	}{
		"weft tunnel, by identity":             {func(a *Agent) { a.tunnelFlow(&tunnel.Flow{Destination: srv, Peer: alice}) }, "", "alice"},
		"weft tunnel, by port":                 {func(a *Agent) { a.tunnelFlow(&tunnel.Flow{Destination: srv, Peer: bob}) }, "", "80"},
		"weft tunnel, where it begins":         {func(a *Agent) { a.tunnelFlow(&tunnel.Flow{Destination: srv, Local: alice, Outbound: true}) }, "", ""},
		"weft tunnel, refused":                 {func(a *Agent) { a.tunnelFlow(&tunnel.Flow{Destination: srv, Peer: alice, Denied: true}) }, "", ""},
		"HBONE":                                {func(a *Agent) { a.accessLog(&xds.Flow{Destination: srv, Peer: bob}) }, "", "80"},
		"a connection where requests decide":   {func(a *Agent) { a.accessLog(&xds.Flow{Destination: other, Peer: alice}) }, "", ""},
		"a request":                            {request("POST", other, false), "HTTPRoute/shop/web/0", "posting"},
		"a request, where it begins":           {request("GET", srv, true), "HTTPRoute/shop/web/0", ""},
		"a request that no rule is known for":  {request("PUT", other, false), "HTTPRoute/shop/web/0", ""},
		"a connection to a pod without policy": {func(a *Agent) { a.tunnelFlow(&tunnel.Flow{Destination: netip.MustParseAddrPort("10.0.0.2:80")}) }, "", ""},
	} {
		got := flowsOf(t, func(a *Agent) {
			w := a.st.Write(a.st.Workloads)
			a.st.Workloads.Put(w, &model.Workload{Namespace: "guard", Name: "srv", Addresses: []netip.Addr{srv.Addr()}, Policy: &model.Policy{Rules: rules}})
			w.Commit()
			c.report(a)
		})
		if len(got) != 1 || got[0].Route != c.route || got[0].AllowedBy != c.allowedBy {
			t.Errorf("%s: %+v, want route %q, allowed by %q", name, got, c.route, c.allowedBy)
		}
	}
}

// TestConnectionsCounted: a connection is counted once at each end, whoever reports it.
func TestConnectionsCounted(t *testing.T) {
	end := netip.MustParseAddrPort("10.0.0.1:80")
	event := func(kind datapath.EventKind, verdict datapath.Verdict, inbound bool) func(a *Agent) {
		return func(a *Agent) {
			a.connection(datapath.Event{Kind: kind, Verdict: verdict, Inbound: inbound, Local: end, Remote: end, Original: end, Sent: 1})
		}
	}
	const opened, closed, refused = "weft_tcp_connections_opened_total", "weft_tcp_connections_closed_total", "weft_tcp_connections_refused_total"
	for name, c := range map[string]struct {
		report func(a *Agent)
		want   map[string]float64
	}{
		"opened in the kernel":            {event(datapath.EventOpened, datapath.VerdictKernel, false), map[string]float64{opened: 1}},
		"closed in the kernel":            {event(datapath.EventClosed, datapath.VerdictKernel, true), map[string]float64{closed: 1}},
		"refused in the kernel":           {event(datapath.EventRefused, datapath.VerdictRefused, true), map[string]float64{refused: 1}},
		"opened to Envoy for requests":    {event(datapath.EventOpened, datapath.VerdictL7, false), map[string]float64{}},
		"closed to Envoy for requests":    {event(datapath.EventClosed, datapath.VerdictL7, false), map[string]float64{}},
		"closed by the app, to the proxy": {event(datapath.EventClosed, datapath.VerdictMTLS, false), map[string]float64{}},
		"opened by weft tunnel":           {func(a *Agent) { a.tunnelFlow(&tunnel.Flow{Open: true}) }, map[string]float64{opened: 1}},
		"closed by weft tunnel":           {func(a *Agent) { a.tunnelFlow(&tunnel.Flow{}) }, map[string]float64{closed: 1}},
		"refused by weft tunnel":          {func(a *Agent) { a.tunnelFlow(&tunnel.Flow{Denied: true}) }, map[string]float64{refused: 1}},
		"opened by HBONE":                 {func(a *Agent) { a.accessLog(&xds.Flow{Open: true, Local: "spiffe://td/ns/a/sa/b"}) }, map[string]float64{opened: 1}},
		"closed by HBONE":                 {func(a *Agent) { a.accessLog(&xds.Flow{Local: "spiffe://td/ns/a/sa/b"}) }, map[string]float64{closed: 1}},
		"in the clear to Envoy":           {func(a *Agent) { a.accessLog(&xds.Flow{}) }, map[string]float64{opened: 1, closed: 1}},
		"a request":                       {func(a *Agent) { a.accessLog(&xds.Flow{Request: &xds.Request{}}) }, map[string]float64{}},
	} {
		got := map[string]float64{}
		r := prometheus.NewPedanticRegistry()
		flowsOf(t, func(a *Agent) {
			r.MustRegister(a.connections)
			c.report(a)
		})
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if n := m.GetCounter().GetValue(); n > 0 && strings.HasPrefix(f.GetName(), "weft_tcp_connections_") {
					got[f.GetName()] += n
				}
			}
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
