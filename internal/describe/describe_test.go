package describe

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/explain"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var now = time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)

// fill writes rows, and returns the node that has them.
func fill(put func(st *state.State, w *state.Write)) *Node {
	st := state.New(state.NewDB())
	w := st.Write(st.Workloads, st.Services, st.Endpoints, st.RouteTables, st.StreamRoutes, st.Divisions, st.BackendTLS, st.Gateways, st.Statuses,
		st.Certificates, st.Certified, st.Announcements, st.Programmed, st.Accepted, st.Rejections)
	put(st, w)
	w.Commit()
	return &Node{Node: explain.Node{State: st, Snapshot: st.Snapshot(), Now: now}}
}

func routeRef(kind, name string) model.ObjectRef {
	return model.ObjectRef{Kind: kind, Namespace: "ns", Name: name}
}

func prefix(path string) model.Match {
	return model.Match{Path: model.PathMatch{Type: model.MatchPrefix, Value: path}}
}

func withHeader(m model.Match, name, value string) model.Match {
	m.Headers = append(slices.Clone(m.Headers), model.ValueMatch{Name: name, Type: model.MatchExact, Value: value})
	return m
}

func TestCovers(t *testing.T) {
	exact := model.Match{Path: model.PathMatch{Type: model.MatchExact, Value: "/a/b"}}
	regex := model.Match{Path: model.PathMatch{Type: model.MatchRegex, Value: "/a/.*"}}
	for name, c := range map[string]struct {
		first, second model.Rule
		want          bool
	}{
		"alike":                         {model.Rule{Match: prefix("/a")}, model.Rule{Match: prefix("/a")}, true},
		"any path":                      {model.Rule{}, model.Rule{Match: regex}, true},
		"the prefix of all":             {model.Rule{Match: prefix("/")}, model.Rule{Match: regex}, true},
		"a longer prefix":               {model.Rule{Match: prefix("/a")}, model.Rule{Match: prefix("/a/b")}, true},
		"a shorter prefix":              {model.Rule{Match: prefix("/a/b")}, model.Rule{Match: prefix("/a")}, false},
		"another element":               {model.Rule{Match: prefix("/a")}, model.Rule{Match: prefix("/ab")}, false},
		"an exact path":                 {model.Rule{Match: prefix("/a")}, model.Rule{Match: exact}, true},
		"exact before a prefix":         {model.Rule{Match: exact}, model.Rule{Match: prefix("/a/b")}, false},
		"an expression is not compared": {model.Rule{Match: prefix("/a")}, model.Rule{Match: regex}, false},
		"a header more":                 {model.Rule{Match: prefix("/a")}, model.Rule{Match: withHeader(prefix("/a"), "x", "1")}, true},
		"a header less":                 {model.Rule{Match: withHeader(prefix("/a"), "x", "1")}, model.Rule{Match: prefix("/a")}, false},
		"another value":                 {model.Rule{Match: withHeader(prefix("/a"), "x", "1")}, model.Rule{Match: withHeader(prefix("/a"), "x", "2")}, false},
		"a method":                      {model.Rule{Match: model.Match{Method: "GET"}}, model.Rule{}, false},
		"a query":                       {model.Rule{Match: model.Match{Query: []model.ValueMatch{{Name: "q"}}}}, model.Rule{}, false},
		"gRPC":                          {model.Rule{Match: model.Match{GRPC: true}}, model.Rule{}, false},
		"callers of a namespace":        {model.Rule{CallerNamespace: "a"}, model.Rule{}, false},
		"callers of any namespace":      {model.Rule{}, model.Rule{CallerNamespace: "a"}, true},
	} {
		if got := covers(&c.first, &c.second); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func (n *Node) ask(t *testing.T, kind, name string) *Description {
	t.Helper()
	d, err := n.Describe(Question{Kind: kind, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// has reports whether a problem holds a text, and has a remedy.
func (d *Description) has(text string) bool {
	return slices.ContainsFunc(d.Problems, func(p Problem) bool { return strings.Contains(p.What, text) && p.Remedy != "" })
}

// TestRuleThatLoses: two routes want the same requests of a Service.
func TestRuleThatLoses(t *testing.T) {
	n := fill(func(st *state.State, w *state.Write) {
		st.Services.Put(w, &model.Service{Namespace: "ns", Name: "web", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true}}})
		to := []model.Backend{{Namespace: "ns", Name: "web", Port: 80, Weight: 1}}
		st.RouteTables.Put(w, &model.RouteTable{Name: model.ServiceTable("ns", "web", 80), VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{
			{Route: routeRef("HTTPRoute", "old"), Match: prefix("/a"), Backends: to},
			{Route: routeRef("HTTPRoute", "new"), Match: prefix("/a"), Backends: to},
			{Route: routeRef("Service", "web"), Match: prefix("/a"), Backends: to}, // the mesh's own
		}}}})
	})
	for _, q := range [][2]string{{KindService, "ns/web"}, {KindRoute, "ns/new"}, {"HTTPRoute", "ns/new"}} {
		d := n.ask(t, q[0], q[1])
		if !d.has("rule HTTPRoute/ns/new[0] gets no request at service/ns/web/80: HTTPRoute/ns/old[0] comes first") {
			t.Errorf("%s: problems %+v", q[0], d.Problems)
		}
	}
	if d := n.ask(t, KindRoute, "ns/old"); d.has("gets no request") || !d.has("backend ns/web:80 has no ready endpoint") {
		t.Errorf("problems %+v", d.Problems)
	}
	if d := n.ask(t, KindService, "ns/web"); !slices.Equal(d.Service.Routes, []string{"HTTPRoute/ns/new", "HTTPRoute/ns/old"}) || !d.has("port 80 has no ready endpoint") {
		t.Errorf("routes %v, problems %+v", d.Service.Routes, d.Problems)
	}
}

func TestServiceProblems(t *testing.T) {
	n := fill(func(st *state.State, w *state.Write) {
		st.Services.Put(w, &model.Service{Namespace: "ns", Name: "web", Refused: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Ports: []model.ServicePort{{Port: 443, Protocol: model.TCP}}})
		st.Endpoints.Put(w, &model.Endpoints{Service: "ns/web", Port: 443, Protocol: model.TCP, Backends: []model.Endpoint{
			{Address: netip.MustParseAddrPort("10.0.0.1:1"), Workload: "bank/vault", NotGranted: true},
		}})
		st.BackendTLS.Put(w, &model.BackendTLS{Namespace: "ns", Service: "web", Port: 443, Policy: model.ObjectVersion{ObjectRef: routeRef("BackendTLSPolicy", "tls")}, Invalid: true})
		st.Programmed.Put(w, &model.Programmed{Subject: model.Subject{Kind: model.SubjectService, Name: "ns/web"}, Error: "map slots is full"})
	})
	d := n.ask(t, KindService, "ns/web")
	for _, want := range []string{"BackendTLSPolicy ns/tls cannot be followed", "pods of other namespaces, and Envoy sends nothing there: bank/vault", "[10.96.0.1] are not balanced", "map slots is full"} {
		if !d.has(want) {
			t.Errorf("no %q in %+v", want, d.Problems)
		}
	}
}

func TestPod(t *testing.T) {
	pod := &model.Workload{
		Namespace: "ns", Name: "web", Node: "n1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Contested: []netip.Addr{netip.MustParseAddr("fd00::1")},
		MTLS: model.MTLSStrict, Identity: model.NewIdentity("td", "ns", "web"), Policy: &model.Policy{Names: []string{"ns/none"}}, Probes: []model.Probe{{Port: 80, Kind: model.ProbeTCP}},
	}
	n := fill(func(st *state.State, w *state.Write) {
		st.Workloads.Put(w, pod)
		st.Services.Put(w, &model.Service{Namespace: "ns", Name: "web", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true}}})
		for _, proto := range []model.Protocol{model.TCP, model.UDP} {
			st.Endpoints.Put(w, &model.Endpoints{Service: "ns/web", Port: 80, Protocol: proto, Backends: []model.Endpoint{{Address: netip.MustParseAddrPort("10.0.0.1:8080"), Workload: "ns/web"}}})
		}
	})
	d := n.ask(t, KindPod, "ns/web")
	if !d.has("several pods claim [fd00::1]") {
		t.Errorf("problems %+v", d.Problems)
	}
	if len(d.Pod.Services) != 2 || !d.Pod.Services[0].L7 || d.Pod.Services[1].L7 {
		t.Errorf("services %+v, want TCP that is L7 and UDP that is not", d.Pod.Services)
	}
	if in := d.Pod.Inbound; len(in) != 4 || !strings.Contains(in[0].Outcome, "refused") || !strings.Contains(in[1].Of, "kubelet") {
		t.Errorf("inbound %+v", in)
	}
	inspected := *pod
	inspected.Policy = &model.Policy{Rules: []model.PolicyRule{{Ports: []uint16{9090, 8080}, HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}}}}
	n = fill(func(st *state.State, w *state.Write) { st.Workloads.Put(w, &inspected) })
	n.Tunnel = true
	for _, want := range []Path{
		{Of: "clients with an identity, bytes to ports [8080 9090]", Way: string(explain.ByHBONE), Outcome: "as its policies allow"},
		{Of: "clients with an identity, bytes to other ports", Way: string(explain.ByTunnel), Outcome: "as its policies allow"},
	} {
		if in := n.ask(t, KindPod, "ns/web").Pod.Inbound; !slices.Contains(in, want) {
			t.Errorf("no %+v in %+v", want, in)
		}
	}
	local := *pod
	local.Local, local.Contested = true, nil
	n = fill(func(st *state.State, w *state.Write) { st.Workloads.Put(w, &local) })
	d = n.ask(t, KindPod, "ns/web")
	for _, want := range []string{"has no valid certificate", "the kernel has not taken over", "Envoy has not taken over"} {
		if !d.has(want) {
			t.Errorf("no %q in %+v", want, d.Problems)
		}
	}
}

// TestStreams: a TLSRoute is found at its Gateway, and by its own name.
func TestStreams(t *testing.T) {
	route := routeRef("TLSRoute", "db")
	n := fill(func(st *state.State, w *state.Write) {
		st.Gateways.Put(w, &model.Gateway{Namespace: "ns", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Ports: []model.GatewayPort{{Port: 443, TLS: true, Listeners: []model.GatewayListener{{
			Name: "tls", Hostname: "*.example", Certificates: []string{"ns/none", "ns/broken"}, Streams: []model.GatewayStream{{Hostname: "db.example", Route: route}},
		}}}}})
		st.StreamRoutes.Put(w, &model.StreamRoute{Route: route, Backends: []model.Backend{{Namespace: "ns", Name: "db", Port: 5432, Weight: 1}}})
		st.Certificates.Put(w, &model.Certificate{Namespace: "ns", Name: "broken", ChainPEM: []byte("nothing")})
		st.Announcements.Put(w, &model.Announcement{Address: netip.MustParseAddr("192.0.2.1"), Node: "n1"})
		st.Statuses.Put(w, &model.Status{Object: model.ObjectRef{Kind: "Gateway", Namespace: "ns", Name: "gw"}, Listeners: []model.ListenerStatus{{Name: "tls"}}})
		st.Rejections.Put(w, &model.Rejection{Node: "n2", Resource: "Listener/x", Message: "bad", Objects: []model.ObjectVersion{{ObjectRef: model.ObjectRef{Kind: "Gateway", Namespace: "ns", Name: "gw"}}}})
	})
	d := n.ask(t, KindGateway, "ns/gw")
	if s := d.Gateway.Streams; len(s) != 1 || s[0].Hostname != "db.example" || len(s[0].Backends) != 1 || len(d.Gateway.Announced) != 1 {
		t.Errorf("%+v", d.Gateway)
	}
	for _, want := range []string{"listener tls has no route", "Secret ns/none", "Secret ns/broken: holds no PEM block", "backend ns/db:5432 has no ready endpoint", "Envoy of node n2 refused Listener/x: bad"} {
		if !d.has(want) {
			t.Errorf("no %q in %+v", want, d.Problems)
		}
	}
	for _, kind := range []string{KindRoute, "TLSRoute"} {
		if d := n.ask(t, kind, "ns/db"); d.Object.Kind != "TLSRoute" || len(d.Route.Streams) != 1 {
			t.Errorf("%s: %+v", kind, d)
		}
	}
}

// TestTelemetry: a Gateway tells which of its policies fail, and what keeps its spans from their collector.
func TestTelemetry(t *testing.T) {
	policy := func(name string) model.ObjectRef {
		return model.ObjectRef{Group: "gateway.networking.x-k8s.io", Kind: "XTelemetryPolicy", Namespace: "ns", Name: name}
	}
	to := &model.Collector{Namespace: "ns", Service: "otel", Port: 4317}
	strict := model.Endpoint{Workload: "ns/otel-0", MTLS: model.MTLSStrict}
	for name, c := range map[string]struct {
		tracing *model.Tracing
		backend []model.Endpoint
		tls     bool
		want    string
	}{
		"strict pods":  {&model.Tracing{Policy: model.ObjectVersion{ObjectRef: policy("p")}, Collector: to}, []model.Endpoint{strict}, false, "pods that are strict refuse spans"},
		"no pods":      {&model.Tracing{Collector: to}, nil, false, "has no endpoint"},
		"invalid TLS":  {&model.Tracing{Collector: to}, []model.Endpoint{{}}, true, "BackendTLSPolicy ns/tls"},
		"good":         {&model.Tracing{Collector: to}, []model.Endpoint{{}}, false, ""},
		"no collector": {&model.Tracing{Off: true}, nil, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := fill(func(st *state.State, w *state.Write) {
				st.Gateways.Put(w, &model.Gateway{Namespace: "ns", Name: "gw", Tracing: c.tracing})
				st.Endpoints.Put(w, &model.Endpoints{Service: "ns/otel", Port: 4317, Protocol: model.TCP, Backends: c.backend})
				if c.tls {
					st.BackendTLS.Put(w, &model.BackendTLS{Namespace: "ns", Service: "otel", Port: 4317, Policy: model.ObjectVersion{ObjectRef: routeRef("BackendTLSPolicy", "tls")}, Invalid: true})
				}
				st.Statuses.Put(w, &model.Status{Object: policy("q"), Parents: []model.ParentStatus{{
					Parent:     model.ObjectRef{Kind: "Gateway", Namespace: "ns", Name: "gw"},
					Conditions: []model.Condition{{Type: "Accepted", Reason: "Conflicted", Message: "XTelemetryPolicy ns/p goes before it"}},
				}}})
			})
			d := n.ask(t, KindGateway, "ns/gw")
			if !d.has("XTelemetryPolicy ns/q: Accepted: Conflicted") {
				t.Errorf("nothing of the policy that waits: %+v", d.Problems)
			}
			if c.want != "" && !d.has(c.want) || c.want == "" && len(d.Problems) != 1 {
				t.Errorf("want %q: %+v", c.want, d.Problems)
			}
		})
	}
}

// TestDatagrams: the endpoints of a UDPRoute's backends are those of the Services' UDP ports.
func TestDatagrams(t *testing.T) {
	route := routeRef("UDPRoute", "dns")
	n := fill(func(st *state.State, w *state.Write) {
		st.Gateways.Put(w, &model.Gateway{Namespace: "ns", Name: "gw", Ports: []model.GatewayPort{{Port: 53, UDP: true, Listeners: []model.GatewayListener{{
			Name: "dns", Streams: []model.GatewayStream{{Route: route}},
		}}}}})
		st.StreamRoutes.Put(w, &model.StreamRoute{Route: route, Backends: []model.Backend{{Namespace: "ns", Name: "dns", Port: 53, Weight: 1}}})
		st.Endpoints.Put(w, &model.Endpoints{Service: "ns/dns", Port: 53, Protocol: model.UDP, Backends: []model.Endpoint{{Address: netip.MustParseAddrPort("10.0.0.1:53")}}})
	})
	d := n.ask(t, KindRoute, "ns/dns")
	if s := d.Route.Streams; len(s) != 1 || len(s[0].Backends) != 1 || s[0].Backends[0].Endpoints != 1 {
		t.Errorf("%+v", d.Route)
	}
	if d.has("no ready endpoint") {
		t.Errorf("%+v", d.Problems)
	}
}

// TestDivisions: a TCPRoute of a Service is found at the Service, at its backends, and by its own name.
func TestDivisions(t *testing.T) {
	route := routeRef("TCPRoute", "split")
	n := fill(func(st *state.State, w *state.Write) {
		for _, name := range []string{"db", "db-v1"} {
			st.Services.Put(w, &model.Service{Namespace: "ns", Name: name, Ports: []model.ServicePort{{Port: 5432, Protocol: model.TCP}}})
		}
		st.Divisions.Put(w, &model.Division{Service: "ns/db", Port: 5432, Route: route, Shares: []model.Share{{
			Backend: model.Backend{Namespace: "ns", Name: "db-v1", Port: 5432, Weight: 1},
		}}})
		st.Divisions.Put(w, &model.Division{Service: "ns/other", Port: 5432, Route: model.ObjectRef{Kind: "TCPRoute", Namespace: "web", Name: "own"}, CallerNamespace: "web"})
	})
	if s := n.ask(t, "TCPRoute", "web/own").Route.Streams; len(s) != 1 || s[0].CallerNamespace != "web" {
		t.Errorf("%+v", s)
	}
	d := n.ask(t, KindService, "ns/db")
	if s := d.Service.Streams; len(s) != 1 || s[0].Route != route || s[0].Service != "ns/db" || len(s[0].Backends) != 1 {
		t.Errorf("%+v", d.Service)
	}
	if !d.has("backend ns/db-v1:5432 has no ready endpoint") {
		t.Errorf("%+v", d.Problems)
	}
	if d := n.ask(t, KindService, "ns/db-v1"); !slices.Contains(d.Service.Routes, route.String()) {
		t.Errorf("%+v", d.Service)
	}
	if d := n.ask(t, KindRoute, "ns/split"); d.Object.Kind != "TCPRoute" || len(d.Route.Streams) != 1 {
		t.Errorf("%+v", d)
	}
}

func TestUnknown(t *testing.T) {
	n := fill(func(*state.State, *state.Write) {})
	for _, kind := range []string{KindPod, KindService, KindGateway, KindRoute, "TCPRoute"} {
		if _, err := n.Describe(Question{Kind: kind, Name: "ns/gone"}); !errors.Is(err, explain.ErrUnknown) {
			t.Errorf("%s: error %v", kind, err)
		}
		if _, err := n.Describe(Question{Kind: kind, Name: "gone"}); err == nil || errors.Is(err, explain.ErrUnknown) {
			t.Errorf("%s without a namespace: error %v", kind, err)
		}
	}
}

func TestParseKind(t *testing.T) {
	for text, want := range map[string]string{"pod": KindPod, "Pods": KindPod, "po": KindPod, "svc": KindService, "services": KindService, "route": KindRoute, "httproutes": "HTTPRoute", "UDPRoute": "UDPRoute", "gtw": KindGateway} {
		if got, err := ParseKind(text); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	if _, err := ParseKind("node"); err == nil {
		t.Error("a node can be described")
	}
}
