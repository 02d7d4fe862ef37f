package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var now = time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)

// mesh is a node on which everything works: pods of three modes, each behind a Service of its name.
type mesh struct {
	*state.State
	w *state.Write
}

func newMesh() *mesh {
	st := state.New(state.NewDB())
	m := &mesh{State: st, w: st.Write(st.Workloads, st.Services, st.Endpoints, st.RouteTables, st.Divisions, st.Gateways, st.Accepted, st.Carried, st.Programmed, st.Certified, st.Nodes)}
	for i, mode := range []model.MTLSMode{model.MTLSDisabled, model.MTLSPermissive, model.MTLSStrict} {
		m.pod(mode.String(), i, mode)
		m.service(mode.String(), false, mode.String())
	}
	return m
}

func (m *mesh) pod(name string, number int, mode model.MTLSMode) *model.Workload {
	w := &model.Workload{
		Namespace: "ns", Name: name, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(number + 1)})}, Node: "here", Local: true, MTLS: mode,
	}
	if mode != model.MTLSDisabled {
		w.Identity = model.NewIdentity("td", "ns", name)
		m.Certified.Put(m.w, &model.Certified{Identity: w.Identity, NotAfter: now.Add(time.Hour)})
	}
	m.put(w)
	return w
}

// put writes a pod, and that all planes have taken it over.
func (m *mesh) put(w *model.Workload) {
	m.Workloads.Put(m.w, w)
	_, revision, _ := m.Workloads.Revision(m.w.Snapshot(), w.Key())
	subject := model.Subject{Kind: model.SubjectWorkload, Name: w.Key()}
	m.Accepted.Put(m.w, &model.Accepted{Subject: subject, Revision: revision})
	m.Carried.Put(m.w, &model.Carried{Subject: subject, Revision: revision})
	m.Programmed.Put(m.w, &model.Programmed{Subject: subject, Revision: revision})
}

// change edits a pod.
func (m *mesh) change(name string, edit func(*model.Workload)) {
	old, _ := m.Workloads.Get(m.w.Snapshot(), "ns/"+name)
	w := *old
	edit(&w)
	m.put(&w)
}

func (m *mesh) policy(name string, rules ...model.PolicyRule) {
	m.change(name, func(w *model.Workload) { w.Policy = &model.Policy{Names: []string{"ns/guard"}, Rules: rules} })
}

// service has port 80, and the pods' port 8080 behind it.
func (m *mesh) service(name string, l7 bool, pods ...string) {
	m.Services.Put(m.w, &model.Service{
		Namespace: "ns", Name: name, Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
		Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: l7}, {Port: 53, Protocol: model.UDP}},
	})
	e := &model.Endpoints{Service: "ns/" + name, Port: 80, Protocol: model.TCP}
	for _, p := range pods {
		w, _ := m.Workloads.Get(m.w.Snapshot(), "ns/"+p)
		e.Backends = append(e.Backends, model.Endpoint{Address: netip.AddrPortFrom(w.Addresses[0], 8080), Workload: w.Key(), Identity: w.Identity, MTLS: w.MTLS, Node: w.Node})
	}
	m.Endpoints.Put(m.w, e)
}

func (m *mesh) routes(service string, rules ...model.Rule) {
	m.service(service, true, service)
	m.RouteTables.Put(m.w, &model.RouteTable{Name: model.ServiceTable("ns", service, 80), VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: rules}}})
}

func (m *mesh) ask(t *testing.T, from, to string, r *Request) *Answer {
	t.Helper()
	target, err := ParseTarget(to)
	if err != nil {
		t.Fatal(err)
	}
	a, err := (&Node{State: m.State, Snapshot: m.w.Snapshot(), Now: now, Tunnel: true}).Explain(Question{From: from, To: target, Request: r})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func to(name string, weight uint32) model.Backend {
	return model.Backend{Namespace: "ns", Name: name, Port: 80, Weight: weight}
}

func TestConnections(t *testing.T) {
	fromPermissive := model.PolicyRule{Sources: []model.PolicySource{{Identity: model.NewIdentity("td", "ns", "permissive")}}}
	anybody := model.PolicyRule{Ports: []uint16{8080}}
	gets := model.PolicyRule{HTTP: []model.HTTPRule{{Methods: []string{"GET"}, Paths: []model.PathMatch{{Type: model.MatchPrefix, Value: "/a"}}}}}
	getsOn := func(port uint16) model.PolicyRule { return model.PolicyRule{Ports: []uint16{port}, HTTP: gets.HTTP} }
	for _, c := range []struct {
		name     string
		edit     func(*mesh)
		from, to string
		request  *Request
		verdict  Verdict
		way      Way
		by       string
		change   string
	}{
		{"no identity at either end", nil, "ns/disabled", "pod/ns/disabled:8080", nil, Allowed, ByKernel, "nothing", ""},
		{"in the clear to permissive", nil, "ns/disabled", "ns/permissive:80", nil, Allowed, ByKernel, "permissive", "label Pod ns/disabled"},
		{"in the clear to strict", nil, "ns/disabled", "ns/strict:80", nil, Refused, ByKernel, "mTLS mode strict", "label the namespace of Pod ns/disabled"},
		{"a strict client to no identity", nil, "ns/strict", "ns/disabled:80", nil, Allowed, ByKernel, "disabled", "label Pod ns/disabled"},
		{"both have one", nil, "ns/permissive", "ns/strict:80", nil, Allowed, ByTunnel, "strict", ""},
		{"the only port", nil, "ns/permissive", "ns/strict", nil, Allowed, ByTunnel, "strict", ""},
		{"to itself", nil, "ns/strict", "pod/ns/strict:8080", nil, Allowed, ByKernel, "nothing", ""},
		{"a port of the mesh", nil, "ns/permissive", "pod/ns/strict:15008", nil, Refused, ByTunnel, "the mesh", ""},
		{"a policy by identity", func(m *mesh) { m.policy("strict", fromPermissive) }, "ns/permissive", "ns/strict:80", nil, Allowed, ByTunnel, "ns/guard: allows spiffe://td/ns/ns/sa/permissive", ""},
		{"a policy by identity, in the clear", func(m *mesh) { m.policy("permissive", fromPermissive) }, "ns/disabled", "ns/permissive:80", nil, Refused, ByKernel, "ns/guard", "have to allow a client without an identity"},
		{"a policy by port", func(m *mesh) { m.policy("permissive", anybody) }, "ns/disabled", "ns/permissive:80", nil, Allowed, ByKernel, "anybody on port 8080", ""},
		{"another port", func(m *mesh) { m.policy("permissive", anybody) }, "ns/strict", "pod/ns/permissive:9090", nil, Refused, ByTunnel, "ns/guard", "have to allow port 9090"},
		{"a policy without rules", func(m *mesh) { m.policy("strict") }, "ns/permissive", "ns/strict:80", nil, Refused, ByTunnel, "ns/guard", "refuses everything"},
		{"a policy that looks at requests", func(m *mesh) { m.policy("strict", gets) }, "ns/permissive", "ns/strict:80", &Request{Path: "/a/b/../c?d"}, Allowed, ByHBONE, "GET /a/*", ""},
		{"doubled slashes", func(m *mesh) { m.policy("strict", gets) }, "ns/permissive", "ns/strict:80", &Request{Path: "//a"}, Allowed, ByHBONE, "GET /a/*", ""},
		{"another path", func(m *mesh) { m.policy("strict", gets) }, "ns/permissive", "ns/strict:80", &Request{Path: "/ab"}, Refused, ByHBONE, "ns/guard", "have to allow the path /ab"},
		{"another method, in the clear", func(m *mesh) { m.policy("permissive", gets) }, "ns/disabled", "ns/permissive:80", &Request{Method: "PUT", Path: "/a"}, Refused, ByKernel, "ns/guard", "have to allow the method PUT"},
		{"an escaped slash", func(m *mesh) { m.policy("strict", gets) }, "ns/permissive", "ns/strict:80", &Request{Path: "/a%2Fb"}, Refused, ByHBONE, "ns/guard", ""},
		{"a policy that looks at requests on that port", func(m *mesh) { m.policy("strict", getsOn(8080)) }, "ns/permissive", "ns/strict:80", &Request{Path: "/a"}, Allowed, ByHBONE, "GET /a/*", ""},
		{"a policy that looks at requests on another port", func(m *mesh) { m.policy("strict", getsOn(9090), anybody) }, "ns/permissive", "ns/strict:80", nil, Allowed, ByTunnel, "anybody on port 8080", ""},
		{"no weft tunnel", func(m *mesh) { m.Carried.Delete(m.w, "workload/ns/permissive") }, "ns/permissive", "ns/strict:80", nil, Allowed, ByHBONE, "strict", ""},
		{"no proxy, strict", func(m *mesh) {
			m.Carried.Delete(m.w, "workload/ns/permissive")
			m.Accepted.Delete(m.w, "workload/ns/permissive")
		}, "ns/permissive", "ns/strict:80", nil, Refused, ByKernel, "strict", "weft status"},
		{"no proxy, permissive", func(m *mesh) {
			m.pod("other", 9, model.MTLSPermissive)
			m.Carried.Delete(m.w, "workload/ns/permissive")
			m.Accepted.Delete(m.w, "workload/ns/permissive")
		}, "ns/permissive", "pod/ns/other:8080", nil, Allowed, ByKernel, "permissive", ""},
		{"a node without weft tunnel", func(m *mesh) {
			m.change("strict", func(w *model.Workload) { w.Local, w.Node = false, "there" })
		}, "ns/permissive", "ns/strict:80", nil, Allowed, ByHBONE, "strict", ""},
		{"a node with weft tunnel", func(m *mesh) {
			m.change("strict", func(w *model.Workload) { w.Local, w.Node = false, "there" })
			m.Nodes.Put(m.w, &model.Node{Name: "there", Accepts: []model.Transport{model.TransportTunnel}})
		}, "ns/permissive", "ns/strict:80", nil, Allowed, ByTunnel, "strict", ""},
		{"an address of two pods", func(m *mesh) {
			m.change("strict", func(w *model.Workload) { w.Addresses, w.Contested = nil, w.Addresses })
		}, "ns/permissive", "pod/ns/strict:8080", nil, Refused, ByKernel, "AddressConflict", ""},
		{"no certificate at the source", func(m *mesh) { m.Certified.Delete(m.w, "spiffe://td/ns/ns/sa/permissive") }, "ns/permissive", "ns/strict:80", nil, Failing, ByTunnel, "", "weft status"},
		{"an expired one at the destination", func(m *mesh) {
			m.Certified.Put(m.w, &model.Certified{Identity: "spiffe://td/ns/ns/sa/strict", NotAfter: now.Add(-time.Hour)})
		}, "ns/permissive", "ns/strict:80", nil, Failing, ByTunnel, "", "weft status"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMesh()
			defer m.w.Abort()
			if c.edit != nil {
				c.edit(m)
			}
			a := m.ask(t, c.from, c.to, c.request)
			if len(a.Ends) != 1 {
				t.Fatalf("%d ends: %+v", len(a.Ends), a)
			}
			end := a.Ends[0]
			if a.Verdict != c.verdict || end.Way != c.way || !strings.Contains(end.By, c.by) || !strings.Contains(strings.Join(a.Changes, "\n"), c.change) {
				t.Errorf("%s by %s, decided by %q; changes %q\n%+v", a.Verdict, end.Way, end.By, a.Changes, a)
			}
			if (a.Request != nil) != (c.request != nil) {
				t.Errorf("the request %+v decided: %v", c.request, a.Request != nil)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	path := func(kind model.MatchType, value string) model.Match {
		return model.Match{Path: model.PathMatch{Type: kind, Value: value}}
	}
	exact, regex := func(n, v string) model.ValueMatch { return model.ValueMatch{Name: n, Type: model.MatchExact, Value: v} }, func(n, v string) model.ValueMatch {
		return model.ValueMatch{Name: n, Type: model.MatchRegex, Value: v}
	}
	rules := []model.Rule{
		{Match: path(model.MatchExact, "/exact"), Backends: []model.Backend{to("strict", 1)}},
		{Match: path(model.MatchPrefix, "/moved"), Redirect: &model.Redirect{Status: 301}},
		{Match: model.Match{Headers: []model.ValueMatch{regex("x-user", "a.*")}}, Backends: []model.Backend{to("disabled", 1)}},
		{Match: model.Match{Query: []model.ValueMatch{exact("q", "two words")}}, Backends: []model.Backend{to("disabled", 1)}},
		{Match: model.Match{GRPC: true}, Backends: []model.Backend{to("disabled", 1)}},
		{CallerNamespace: "elsewhere", Backends: []model.Backend{to("disabled", 1)}},
		{Match: path(model.MatchPrefix, "/split"), Backends: []model.Backend{to("strict", 3), to("disabled", 1), to("permissive", 0)}},
		{Match: path(model.MatchPrefix, "/half"), Backends: []model.Backend{to("strict", 1), {Namespace: "ns", Name: "gone", Port: 80, Weight: 1, Invalid: true}}},
		{Match: path(model.MatchPrefix, "/none"), Backends: []model.Backend{to("empty", 1)}},
		{Match: path(model.MatchPrefix, "/zero"), Backends: []model.Backend{to("strict", 0)}},
		{Match: path(model.MatchRegex, "/[a-c]"), Status: 404},
		{Match: model.Match{Method: "GET", Path: model.PathMatch{Type: model.MatchPrefix, Value: "/"}}, Backends: []model.Backend{to("permissive", 1)}},
	}
	for _, c := range []struct {
		name    string
		from    string
		request Request
		place   int // of the rule that is met, 0 for none
		verdict Verdict
		status  int
		ends    string // pods and shares
		way     Way
	}{
		{"exact", "ns/permissive", Request{Path: "/exact?x"}, 1, Allowed, 0, "ns/strict 1", ByEnvoyHBONE},
		{"a caller without an identity", "ns/disabled", Request{Path: "/exact"}, 1, Refused, 0, "ns/strict 1", ByEnvoy},
		{"redirect", "ns/permissive", Request{Path: "/moved/x"}, 2, Allowed, 301, "", ""},
		{"not a whole segment", "ns/permissive", Request{Path: "/movedx"}, 12, Allowed, 0, "ns/permissive 1", ByEnvoyHBONE},
		{"header", "ns/permissive", Request{Headers: []model.Header{{Name: "X-User", Value: "alice"}}}, 3, Allowed, 0, "ns/disabled 1", ByEnvoy},
		{"query", "ns/permissive", Request{Path: "/?q=two+words"}, 4, Allowed, 0, "ns/disabled 1", ByEnvoy},
		{"gRPC", "ns/permissive", Request{Headers: []model.Header{{Name: "content-type", Value: "application/grpc"}}}, 5, Allowed, 0, "ns/disabled 1", ByEnvoy},
		{"weights", "ns/permissive", Request{Path: "/split"}, 7, Allowed, 0, "ns/strict 0.75, ns/disabled 0.25", ByEnvoyHBONE},
		{"an invalid backend", "ns/permissive", Request{Path: "/half"}, 8, Partly, 0, "ns/strict 0.5,  0.5", ByEnvoyHBONE},
		{"a backend without endpoints", "ns/permissive", Request{Path: "/none"}, 9, Failing, 0, " 1", ByEnvoy},
		{"no weight", "ns/permissive", Request{Path: "/zero"}, 10, Failing, 500, "", ""},
		{"a rule that answers", "ns/permissive", Request{Path: "/b"}, 11, Failing, 404, "", ""},
		{"dot segments", "ns/permissive", Request{Path: "/x/../exact"}, 1, Allowed, 0, "ns/strict 1", ByEnvoyHBONE},
		{"no rule", "ns/permissive", Request{Method: "PUT"}, 0, Failing, 404, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMesh()
			defer m.w.Abort()
			m.service("empty", false)
			m.routes("permissive", rules...)
			a := m.ask(t, c.from, "ns/permissive:80", &c.request)
			place := 0
			if a.Route != nil {
				place = a.Route.Place
			}
			var ends []string
			for _, e := range a.Ends {
				ends = append(ends, fmt.Sprintf("%s %g", e.Workload, e.Share))
			}
			if place != c.place || a.Verdict != c.verdict || a.Status != c.status || strings.Join(ends, ", ") != c.ends || len(a.Ends) > 0 && a.Ends[0].Way != c.way {
				t.Errorf("rule %d, %s, status %d, ends %q\n%+v", place, a.Verdict, a.Status, ends, a)
			}
		})
	}
}

// TestRequestsByTunnel: requests to an endpoint with an identity go by weft tunnel where both nodes have one and no policy looks at them.
func TestRequestsByTunnel(t *testing.T) {
	anybody := model.PolicyRule{Ports: []uint16{8080}}
	getsOn := func(port uint16) model.PolicyRule {
		return model.PolicyRule{Ports: []uint16{port}, HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}}
	}
	for _, c := range []struct {
		name string
		do   func(*mesh)
		way  Way
	}{
		{"weft tunnel takes them", func(*mesh) {}, ByEnvoyTunnel},
		{"a policy looks at them", func(m *mesh) { m.policy("strict", getsOn(8080)) }, ByEnvoyHBONE},
		{"a policy looks at those of another port", func(m *mesh) { m.policy("strict", getsOn(9090), anybody) }, ByEnvoyTunnel},
		{"weft tunnel is not connected", func(m *mesh) { m.Carried.Delete(m.w, model.Tunnel.Key()) }, ByEnvoyHBONE},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMesh()
			defer m.w.Abort()
			m.routes("strict", model.Rule{Backends: []model.Backend{to("strict", 1)}})
			m.Carried.Put(m.w, &model.Carried{Subject: model.Tunnel, GatewayPort: 4001})
			c.do(m)
			if a := m.ask(t, "ns/permissive", "ns/strict:80", &Request{Method: "GET", Path: "/"}); len(a.Ends) != 1 || a.Ends[0].Way != c.way {
				t.Errorf("got %+v, want %s", a, c.way)
			}
		})
	}
}

// TestDivision: connections to a Service with a TCPRoute lead to its backends, by weight, each by the way that it would be reached
// by itself.
func TestDivision(t *testing.T) {
	m := newMesh()
	defer m.w.Abort()
	m.service("front", false)
	share := func(name string, weight uint32) model.Share {
		s := model.Share{Backend: to(name, weight)}
		if e, ok := m.Endpoints.Get(m.w.Snapshot(), model.PortKey("ns", name, 80, model.TCP)); ok {
			s.Endpoints = e.Backends
		}
		return s
	}
	divide := func(shares ...model.Share) {
		m.Divisions.Put(m.w, &model.Division{Service: "ns/front", Port: 80, Route: model.ObjectRef{Kind: "TCPRoute", Namespace: "ns", Name: "r"}, Shares: shares})
	}
	divide(share("strict", 2), share("disabled", 1), share("gone", 1))
	a := m.ask(t, "ns/permissive", "ns/front:80", nil)
	var ends []string
	for _, e := range a.Ends {
		ends = append(ends, fmt.Sprintf("%s %g %s %s", e.Workload, e.Share, e.Way, e.Verdict))
	}
	const want = "ns/strict 0.5 weft tunnel allowed, ns/disabled 0.25 kernel allowed,  0.25 kernel failing"
	if got := strings.Join(ends, ", "); got != want || a.Verdict != Partly || !strings.Contains(strings.Join(a.Notes, ";"), "TCPRoute/ns/r") {
		t.Errorf("%s: %q, want %q; notes %q", a.Verdict, got, want, a.Notes)
	}
	// A route of the caller's namespace goes before that of the Service's own.
	m.Divisions.Put(m.w, &model.Division{
		Service: "ns/front", Port: 80, Route: model.ObjectRef{Kind: "TCPRoute", Namespace: "other", Name: "own"}, CallerNamespace: "other",
		Shares: []model.Share{share("disabled", 1)},
	})
	m.Workloads.Put(m.w, &model.Workload{Namespace: "other", Name: "client", Local: true, Node: "n", Addresses: []netip.Addr{netip.MustParseAddr("10.0.9.9")}})
	a = m.ask(t, "other/client", "ns/front:80", nil)
	if len(a.Ends) != 1 || a.Ends[0].Workload != "ns/disabled" || !strings.Contains(strings.Join(a.Notes, ";"), "callers in namespace other") {
		t.Errorf("%+v", a)
	}
	divide()
	if a := m.ask(t, "ns/permissive", "ns/front:80", nil); a.Verdict != Failing || !strings.Contains(a.Why, "no backend") {
		t.Errorf("without a backend: %s, %s", a.Verdict, a.Why)
	}
}

func TestVirtualHosts(t *testing.T) {
	all := []model.VirtualHost{{Hosts: []string{"*"}}, {Hosts: []string{"*.example"}}, {Hosts: []string{"*.shop.example"}}, {Hosts: []string{"a.shop.example"}}}
	for host, want := range map[string]string{
		"other": "*", "example": "*", "a.example:80": "*.example", "b.shop.example": "*.shop.example", "A.shop.example.": "a.shop.example", "[::1]:80": "*",
	} {
		if got := virtualHost(all, host); got == nil || got.Hosts[0] != want {
			t.Errorf("%s: %+v, want %s", host, got, want)
		}
	}
	if got := virtualHost(all[1:], "other"); got != nil {
		t.Errorf("%+v takes a host that it does not name", got)
	}
}

func TestGateway(t *testing.T) {
	m := newMesh()
	defer m.w.Abort()
	id := model.NewIdentity("td", "ns", "edge")
	m.Certified.Put(m.w, &model.Certified{Identity: id, NotAfter: now.Add(time.Hour)})
	m.Gateways.Put(m.w, &model.Gateway{Namespace: "ns", Name: "edge", Identity: id, Ports: []model.GatewayPort{{Port: 443, TLS: true, Listeners: []model.GatewayListener{
		{Name: "a", Hostname: "a.example", RouteTable: "a"}, {Name: "all", Hostname: "*.example", RouteTable: "all"},
	}}}})
	m.RouteTables.Put(m.w, &model.RouteTable{Name: "all", VirtualHosts: []model.VirtualHost{{Hosts: []string{"*.example"}, Rules: []model.Rule{{Backends: []model.Backend{to("strict", 1)}}}}}})
	for host, want := range map[string]Verdict{"b.example": Allowed, "a.example": Failing, "elsewhere": Failing} {
		a := m.ask(t, "ns/disabled", "gateway/ns/edge", &Request{Host: host})
		if a.Verdict != want {
			t.Errorf("%s: %+v, want %s", host, a, want)
		}
		if want == Allowed && (a.Ends[0].Way != ByEnvoyHBONE || a.Ends[0].Client != id) {
			t.Errorf("%s: the Gateway does not call as itself: %+v", host, a.Ends[0])
		}
	}
}

func TestNotAnswered(t *testing.T) {
	m := newMesh()
	defer m.w.Abort()
	n := &Node{State: m.State, Snapshot: m.w.Snapshot(), Now: now}
	for _, q := range []Question{{From: "ns/nobody", To: Target{Name: "ns/strict"}}, {From: "ns/strict", To: Target{Name: "ns/nobody"}}, {From: "ns/strict", To: Target{Kind: KindGateway, Name: "ns/strict"}}} {
		if _, err := n.Explain(q); !errors.Is(err, ErrUnknown) {
			t.Errorf("%+v: error %v", q, err)
		}
	}
	if _, err := n.Explain(Question{From: "ns/strict", To: Target{Kind: KindPod, Name: "ns/strict"}}); err == nil || !strings.Contains(err.Error(), "port") {
		t.Errorf("a pod without a port: error %v", err)
	}
	for _, text := range []string{"", "a", "a/b/c/d", "a/b:0", "a/b:x", "secret/a/b", "/b", "a/"} {
		if target, err := ParseTarget(text); err == nil {
			t.Errorf("%q is read as %+v", text, target)
		}
	}
	if a := m.ask(t, "ns/strict", "ns/disabled:81", nil); a.Verdict != Failing || !strings.Contains(a.Why, "no TCP port 81") {
		t.Errorf("a port that a Service does not have: %+v", a)
	}
}

// What a plane has not taken over yet is noted, so that nobody trusts the answer too much.
func TestBehind(t *testing.T) {
	m := newMesh()
	defer m.w.Abort()
	w, _ := m.Workloads.Get(m.w.Snapshot(), "ns/strict")
	next := *w
	next.Policy = &model.Policy{Names: []string{"ns/guard"}}
	m.Workloads.Put(m.w, &next)
	notes := strings.Join(m.ask(t, "ns/permissive", "ns/strict:80", nil).Notes, "\n")
	for _, plane := range []string{"the kernel", "Envoy", "weft tunnel"} {
		if !strings.Contains(notes, plane+" has not taken over the newest mode and policy of Pod ns/strict") {
			t.Errorf("%s is not named: %q", plane, notes)
		}
	}
}
