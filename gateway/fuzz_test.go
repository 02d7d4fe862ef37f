package gateway

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// FuzzTranslate gives the translator whatever a manifest may hold. It must not panic, must settle, and nothing that
// Envoy would refuse or read as something else may reach the model.
func FuzzTranslate(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range files {
		if strings.Contains(strings.TrimSuffix(filepath.Base(path), ".yaml"), ".") {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := parseObjects(data)
		if err != nil {
			t.Skip()
		}
		w := newWorld(testConfig)
		for _, o := range objects {
			putIfTaken(w, o)
		}
		w.Sync()
		m := w.model()
		for _, table := range m.RouteTables {
			checkTable(t, table)
		}
		for _, g := range m.Gateways {
			for _, p := range g.Ports {
				for _, l := range p.Listeners {
					if !plain.MatchString(l.Name) || !hostText.MatchString(l.Hostname) {
						t.Errorf("listener %q with hostname %q", l.Name, l.Hostname)
					}
				}
			}
		}
		for _, wl := range m.Workloads {
			if wl.NetNS != "" && (strings.Count(wl.NetNS, "/") != 3 || strings.Contains(wl.NetNS, "..")) {
				t.Errorf("network namespace %q", wl.NetNS)
			}
			if wl.Identity != "" && strings.Count(string(wl.Identity), "/") != 6 {
				t.Errorf("identity %q", wl.Identity)
			}
			if wl.MTLS != model.MTLSDisabled && wl.Identity == "" {
				t.Errorf("workload %s has mode %s and no identity", wl.Key(), wl.MTLS)
			}
		}
		for _, s := range w.statuses() {
			for _, p := range s.Parents {
				for _, c := range p.Conditions {
					if len(c.Message) > 8192 {
						t.Errorf("a message of %d bytes", len(c.Message))
					}
				}
			}
		}
	})
}

func putIfTaken(w *world, o runtime.Object) {
	txn := w.objs.Write()
	defer txn.Abort()
	if w.objs.Put(txn, o) == nil {
		txn.Commit()
	}
}

var (
	plain    = regexp.MustCompile(`^([a-z0-9.-]+/[a-z0-9.-]+/)?[a-z0-9.-]+$`)
	hostText = regexp.MustCompile(`^$|^\*$|^(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)
)

func checkTable(t *testing.T, table *model.RouteTable) {
	t.Helper()
	seen := map[string]bool{}
	for _, vh := range table.VirtualHosts {
		for _, h := range vh.Hosts {
			if seen[h] || !hostText.MatchString(h) {
				t.Errorf("%s: host %q is there twice or is none", table.Name, h)
			}
			seen[h] = true
		}
		for _, r := range vh.Rules {
			checkRule(t, r)
		}
	}
}

func checkRule(t *testing.T, r model.Rule) {
	t.Helper()
	clean := func(what, s string) {
		if strings.ContainsAny(s, "\x00\r\n") || len(s) > maxHeaderValue {
			t.Errorf("%s of %s: %q", what, r.Route, s)
		}
	}
	m := r.Match
	clean("path", m.Path.Value)
	if m.Path.Type == model.MatchRegex {
		if _, err := regexp.Compile("^(?:" + m.Path.Value + ")$"); err != nil {
			t.Errorf("path of %s: %v", r.Route, err)
		}
	} else if m.Path.Value != "" && !strings.HasPrefix(m.Path.Value, "/") {
		t.Errorf("path of %s: %q", r.Route, m.Path.Value)
	}
	for _, v := range append(m.Headers, m.Query...) {
		clean("match", v.Name+v.Value)
	}
	if d := r.Redirect; d != nil {
		checkTarget(t, r, d.Host, d.Path)
		if d.Scheme != "" && d.Scheme != "http" && d.Scheme != "https" {
			t.Errorf("redirect of %s: scheme %q", r.Route, d.Scheme)
		}
	}
	if d := r.Rewrite; d != nil {
		checkTarget(t, r, d.Host, d.Path)
	}
	changes := []model.HeaderChange{r.RequestHeaders, r.ResponseHeaders}
	weight := uint64(0)
	for _, b := range r.Backends {
		changes = append(changes, b.RequestHeaders, b.ResponseHeaders)
		clean("backend", b.Cluster())
		weight += uint64(b.Weight)
	}
	if (len(r.Backends) > 0 && weight == 0) || weight > 1<<32-1 {
		t.Errorf("weights of %s sum to %d", r.Route, weight)
	}
	if len(r.Backends) == 0 && r.Redirect == nil && r.Status == 0 {
		t.Errorf("a rule of %s does nothing", r.Route)
	}
	for _, c := range changes {
		for _, h := range append(c.Set, c.Add...) {
			clean("header", h.Name+h.Value)
		}
		for _, h := range c.Remove {
			clean("header", h)
		}
	}
}

func checkTarget(t *testing.T, r model.Rule, host string, path *model.PathChange) {
	t.Helper()
	if !hostText.MatchString(host) || strings.HasPrefix(host, "*") {
		t.Errorf("target of %s: host %q", r.Route, host)
	}
	if path == nil {
		return
	}
	for _, p := range []*string{path.Full, path.Prefix} {
		if p != nil && *p != "" && (!strings.HasPrefix(*p, "/") || strings.ContainsAny(*p, "\x00\r\n ?#")) {
			t.Errorf("target of %s: path %q", r.Route, *p)
		}
	}
}

// FuzzHTTPRoute puts arbitrary text into every field of a route that holds some.
func FuzzHTTPRoute(f *testing.F) {
	f.Add("/a", uint8(0), "x-name", "value", uint8(0), "a.example.com", "/new", int32(1), "1s", "*")
	f.Add("/a/(b|c)", uint8(2), "X\r\nY", "^a$", uint8(1), "*.example.com", "/%2e", int32(-1), "1h1m1s1ms", "https://*.a.b:80")
	f.Fuzz(func(t *testing.T, path string, kind uint8, name, value string, valueKind uint8, host, to string, weight int32, duration, origin string) {
		pathKinds := []gwv1.PathMatchType{gwv1.PathMatchPathPrefix, gwv1.PathMatchExact, gwv1.PathMatchRegularExpression, gwv1.PathMatchType(name)}
		valueKinds := []gwv1.HeaderMatchType{gwv1.HeaderMatchExact, gwv1.HeaderMatchRegularExpression, gwv1.HeaderMatchType(name)}
		header := gwv1.HTTPHeaderName(name)
		change := &gwv1.HTTPHeaderFilter{Set: []gwv1.HTTPHeader{{Name: header, Value: value}}, Remove: []string{name}}
		match := func() []gwv1.HTTPRouteMatch {
			return []gwv1.HTTPRouteMatch{{
				Path:        &gwv1.HTTPPathMatch{Type: &pathKinds[int(kind)%4], Value: &path},
				Headers:     []gwv1.HTTPHeaderMatch{{Name: header, Type: &valueKinds[int(valueKind)%3], Value: value}},
				QueryParams: []gwv1.HTTPQueryParamMatch{{Name: header, Value: value}},
			}}
		}
		filters := []gwv1.HTTPRouteFilter{
			{Type: gwv1.HTTPRouteFilterRequestHeaderModifier, RequestHeaderModifier: change},
			{Type: gwv1.HTTPRouteFilterURLRewrite, URLRewrite: &gwv1.HTTPURLRewriteFilter{
				Hostname: new(gwv1.PreciseHostname(host)), Path: &gwv1.HTTPPathModifier{Type: gwv1.PrefixMatchHTTPPathModifier, ReplacePrefixMatch: &to},
			}},
			{Type: gwv1.HTTPRouteFilterRequestRedirect, RequestRedirect: &gwv1.HTTPRequestRedirectFilter{
				Scheme: &name, Hostname: new(gwv1.PreciseHostname(host)), Port: &weight, Path: &gwv1.HTTPPathModifier{Type: gwv1.FullPathHTTPPathModifier, ReplaceFullPath: &to},
			}},
			{Type: gwv1.HTTPRouteFilterRequestMirror, RequestMirror: &gwv1.HTTPRequestMirrorFilter{Fraction: &gwv1.Fraction{Numerator: int32(kind), Denominator: &weight}}},
			{Type: gwv1.HTTPRouteFilterCORS, CORS: &gwv1.HTTPCORSFilter{
				AllowOrigins: []gwv1.CORSOrigin{gwv1.CORSOrigin(origin)}, AllowHeaders: []gwv1.HTTPHeaderName{header}, MaxAge: weight,
			}},
		}
		r := serviceRoute("ns", "r", "web", weight)
		r.Spec.ParentRefs = append(r.Spec.ParentRefs, gwv1.ParentReference{Name: "edge", SectionName: new(gwv1.SectionName(name))}, gwv1.ParentReference{Name: "edge"})
		r.Spec.Hostnames = []gwv1.Hostname{gwv1.Hostname(host)}
		r.Spec.Rules[0].Matches = match()
		r.Spec.Rules[0].Timeouts = &gwv1.HTTPRouteTimeouts{Request: new(gwv1.Duration(duration))}
		for i := range filters {
			r.Spec.Rules = append(r.Spec.Rules, gwv1.HTTPRouteRule{Matches: match(), Filters: filters[i : i+1]})
		}
		w := newWorld(testConfig)
		w.put(t, simpleService("ns", "web"), r,
			&gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "weft"}, Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
			&gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "edge"}, Spec: gwv1.GatewaySpec{
				GatewayClassName: "weft", Listeners: []gwv1.Listener{{Name: gwv1.SectionName(name), Port: 80, Protocol: gwv1.HTTPProtocolType, Hostname: new(gwv1.Hostname(host))}},
			}})
		w.Sync()
		for _, table := range w.model().RouteTables {
			checkTable(t, table)
		}
	})
}
