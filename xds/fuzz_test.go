package xds

import (
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Names come from Envoy, and some of them from what a connection said.
func FuzzNames(f *testing.F) {
	for _, s := range []string{
		"service/ns/name/80", "service/ns/name/80|plain", "service/ns/name/80|plain|http1", "gateway/ns/gw/443/https|plain", "gateway-udp/ns/gw/53",
		"tcp|10.0.0.1", "tcp|fd00::1", "tcp|10.0.0.1:80", "10.96.0.1:80|plain", "ns/pod/hbone", "cert|ns/name", "clients|ns/gw/443", "export|ns/gw", "header|ns/gw/authorization", "tcp|010.0.0.1",
		"tcp|::ffff:1.2.3.4", "tcp|fe80::1%eth0", "service/ns/name/080", "server|spiffe://td/ns/a/sa/b", "*", "",
	} {
		f.Add(s)
	}
	st := state.New(state.NewDB())
	server := New(st, Config{Node: "n", TrustDomain: "td"})
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := parseServiceName(s); ok && n.String() != s {
			t.Errorf("%q is read as %q", s, n)
		}
		if n, ok := parseGatewayName(s); ok && n.table() != strings.TrimSuffix(s, plainSuffix) {
			t.Errorf("%q is read as %+v", s, n)
		}
		if n, ok := parseDatagramsName(s); ok && n.String() != s {
			t.Errorf("%q is read as %q", s, n)
		}
		if key, ok := parseExportName(s); ok && exportPrefix+key != s {
			t.Errorf("%q is read as %q", s, key)
		}
		if a, ok := parseTCPCluster(s); ok && tcpPrefix+a.String() != s {
			t.Errorf("%q is read as %q", s, a)
		}
		if a, plain, ok := parseScopeKey(s); ok && scopeKey(a, plain) != s {
			t.Errorf("%q is read as %q", s, a)
		}
		for url := range kinds {
			if m, ok := server.Build(url, s); ok {
				if _, err := marshal(url, m); err != nil {
					t.Errorf("%s %q: %v", url, s, err)
				}
			}
		}
	})
}

// Whatever a route holds, what comes of it keeps the rules of Envoy's protos, or is reported and not sent.
func FuzzRule(f *testing.F) {
	f.Add("PathPrefix", "/a", "GET", "x-a", "v%", "/b/", "host")
	f.Add("Exact", "/a", "", "host", "\n", "", "")
	f.Add("RegularExpression", "/a[", "", ":path", "\x00", "%", "a b")
	f.Fuzz(func(t *testing.T, kind, path, method, name, value, to, host string) {
		r := &model.Rule{
			Match: model.Match{
				Path: model.PathMatch{Type: model.MatchType(kind), Value: path}, Method: method,
				Headers: []model.ValueMatch{{Name: name, Type: model.MatchType(kind), Value: value}},
				Query:   []model.ValueMatch{{Name: name, Type: model.MatchExact, Value: value}},
			},
			RequestHeaders: model.HeaderChange{Set: []model.Header{{Name: name, Value: value}}, Remove: []string{name}},
			Rewrite:        &model.Rewrite{Host: host, Path: &model.PathChange{Prefix: &to}},
			Backends:       []model.Backend{{Namespace: "ns", Name: "s", Port: 80, Weight: 1}},
		}
		redirect := *r
		redirect.Redirect = &model.Redirect{Scheme: "https", Host: host, Path: &model.PathChange{Full: &to}}
		st := state.New(state.NewDB())
		table := &table{b: &builder{st: st, snap: st.Snapshot(), cfg: &Config{}}, scheme: "http", port: 80}
		for _, rule := range []*model.Rule{r, &redirect} {
			for _, route := range table.routes(rule) {
				if _, err := marshal(TypeRoute, route); err != nil {
					continue // reported, not sent
				}
				for _, h := range route.RequestHeadersToAdd {
					if v := h.Header.Value; strings.ContainsAny(v, "\r\n\x00") || strings.Contains(strings.ReplaceAll(v, "%%", ""), "%") {
						t.Errorf("header value %q gets to Envoy", v)
					}
				}
				if p := route.GetRoute().GetPathRewrite(); strings.Contains(strings.ReplaceAll(p, "%%", ""), "%") {
					t.Errorf("path rewrite %q gets to Envoy", p)
				}
			}
		}
	})
}

// Whatever a policy holds, what comes of it keeps the rules of Envoy's protos: Envoy would refuse a pod's policies together.
func FuzzPolicy(f *testing.F) {
	f.Add("GET", "Exact", "/a", "spiffe://td/ns/a/sa/b", "ns", uint16(80))
	f.Add("", "PathPrefix", "/", "", "", uint16(0))
	f.Add("\x00", "RegularExpression", "/a[", "\n", "*", uint16(15008))
	f.Fuzz(func(t *testing.T, method, kind, path, identity, namespace string, port uint16) {
		paths := []model.PathMatch{{Type: model.MatchType(kind), Value: path}}
		p := &model.Policy{Names: []string{"ns/p"}, Rules: []model.PolicyRule{
			{},
			{Sources: []model.PolicySource{}},
			{Sources: []model.PolicySource{{Identity: model.Identity(identity)}, {Namespace: namespace}}, Ports: []uint16{port}},
			{Ports: []uint16{port, 80}, HTTP: []model.HTTPRule{{}, {Methods: []string{method}}, {Paths: paths}, {Methods: []string{method, "GET"}, Paths: paths}}},
		}}
		for name, at := range map[string]place{"CONNECT": atConnect("td"), "request": atRequest("td"), "in the clear": atPlain("td")} {
			if err := at.allow(p).ValidateAll(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
