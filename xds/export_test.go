package xds

import (
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/weft-mesh/weft/internal/model"
)

// exporting is a world with a Gateway, a backend and a collector.
type exporting struct {
	*world
	t    *testing.T
	got  *spans
	port uint16
	e    *envoy
	next int
}

// newExporting makes a Gateway whose collector is one that collect serves: collect, or collectHere.
func newExporting(t *testing.T, cfg Config, collect func(*testing.T, *world) *spans) *exporting {
	w := newWorld(t, cfg)
	x := &exporting{world: w, t: t, got: collect(t, w), port: freePort(t)}
	backend(t, w, "v1")
	gatewayWith(w, x.port, model.Rule{Match: path(model.MatchPrefix, "/"), Backends: []model.Backend{to("v1", 1)}})
	return x
}

// want puts a policy in force.
func (x *exporting) want(p *model.Tracing) {
	g, _ := x.st.Gateways.Get(x.st.Snapshot(), "shop/gw")
	changed := *g
	changed.Tracing = p
	put(x.world, x.st.Gateways, &changed)
}

func (x *exporting) start() {
	x.e = x.envoy()
	x.e.until("listener", func() error { _, err := trySend(x.port, "GET", "x", "/", nil); return err })
	x.noRejections()
}

// send sends a request in a trace of its own, which its client has sampled or not.
func (x *exporting) send(sampled bool, header map[string]string) (id string) {
	x.t.Helper()
	id, _ = x.ask(sampled, header)
	return id
}

// ask is send, and reports whether the backend is told that the request is sampled.
func (x *exporting) ask(sampled bool, header map[string]string) (id string, told bool) {
	x.t.Helper()
	x.next++
	id = traceID(x.next)
	flags := map[bool]string{false: "00", true: "01"}[sampled]
	h := map[string]string{"traceparent": parentOf(id, flags)}
	for k, v := range header {
		h[k] = v
	}
	body := send(x.t, x.port, "GET", "shop.example:8080", "/a/b?token=secret", h).body
	if !strings.Contains(body, "Traceparent: 00-"+id) {
		x.t.Errorf("the backend gets another trace:\n%s", body)
	}
	return id, !strings.Contains(body, "-00\r\n")
}

// until sends requests until one of them has a span that fits.
func (x *exporting) until(what string, sampled bool, fits func(span) bool) {
	x.t.Helper()
	var ids []string
	until(x.t, what, func() error {
		ids = append(ids, x.send(sampled, nil))
		for _, id := range ids {
			if s, ok := x.got.server(id); ok && fits(s) {
				return nil
			}
		}
		return errors.New("none yet")
	})
}

// server returns the server's span of a trace.
func (s *spans) server(traceID string) (span, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.all {
		if sp.traceID == traceID && sp.kind == trace.Span_SPAN_KIND_SERVER {
			return sp, true
		}
	}
	return span{}, false
}

func (s *spans) header(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.headers.Get(name), ",")
}

func tracingOf(name string, c *model.Collector) *model.Tracing {
	return &model.Tracing{
		Policy:    model.ObjectVersion{ObjectRef: model.ObjectRef{Group: "gateway.networking.x-k8s.io", Kind: "XTelemetryPolicy", Namespace: "shop", Name: name}},
		Collector: c, Sampling: ptr(100.0),
	}
}

func otel(headers ...model.SecretHeader) *model.Collector {
	return &model.Collector{Namespace: "observability", Service: "otel", Port: 4317, Headers: headers}
}

// TestTracesByPolicy: a real Envoy reports a Gateway's requests to the collector that a policy names, as the policy says, in a
// mesh without a collector of its own.
func TestTracesByPolicy(t *testing.T) {
	x := newExporting(t, Config{}, collect)
	p := tracingOf("p", otel())
	p.ServiceName, p.SpanName = "shop/edge", "edge request"
	p.Attributes = []model.SpanAttribute{
		{Name: "env", Literal: "100% %REQ(cookie)%"}, {Name: "user", Header: "x-user"}, {Name: "answer", Header: "x-from"},
		{Name: "odd", Header: "x&%|'y"}, {Name: "none", Header: "x-none"}, {Name: "long", Header: "x-long"},
		{Name: "r/user", Key: "http.request.header.x-user"}, {Name: "r/from", Key: "http.response.header.x-from"},
	}
	want := map[string]string{
		"env": "100% %REQ(cookie)%", "user": "alice", "odd": "strange", "long": strings.Repeat("a", maxTag), "r/user": "alice", "answer": "backend", "r/from": "backend",
		"http.url": "http://shop.example:8080/a/b",
	}
	values := map[string]string{
		"client.address": "127.0.0.1", "http.request.method": "GET", "http.request.method_original": "GET", "http.response.status_code": "200",
		"network.peer.address": "127.0.0.1", "network.protocol.name": "http", "network.transport": "tcp",
		"server.port": fmt.Sprint(x.port), "url.full": "http://shop.example:8080/a/b?token=secret", "url.path": "/a/b", "url.query": "token=secret", "url.scheme": "http",
		"user_agent.original": "test/1",
	}
	for _, key := range model.SpanKeys {
		p.Attributes = append(p.Attributes, model.SpanAttribute{Name: "k/" + key, Key: key})
		if v, ok := values[key]; ok {
			want["k/"+key] = v
		} else if key != "client.port" && key != "network.peer.port" {
			t.Errorf("the test does not know %s", key)
		}
	}
	x.want(p)
	x.start()
	s := x.got.of(t, x.send(false, map[string]string{"x-user": "alice", "x&%|'y": "strange", "x-long": strings.Repeat("a", 5000), "user-agent": "test/1"}))
	for name, v := range want {
		if s.attributes[name] != v {
			t.Errorf("%s is %q, want %q", name, s.attributes[name], v)
		}
	}
	if v, ok := s.attributes["none"]; ok {
		t.Errorf("a header that is not there is %q", v)
	}
	for _, name := range []string{"k/client.port", "k/network.peer.port"} {
		if v := s.attributes[name]; v == "" || v == "0" {
			t.Errorf("%s is %q", name, v)
		}
	}
	if s.name != "edge request" || s.resource["service.name"] != "shop/edge" || s.resource["service.namespace"] != "shop" {
		t.Errorf("span %q of %v", s.name, s.resource)
	}
}

// TestTracesByPolicySampling: whether clients decide is the policy's to say, and one that disables traces has none.
func TestTracesByPolicySampling(t *testing.T) {
	x := newExporting(t, Config{Traces: &Traces{Namespace: "observability", Service: "otel", Port: 4317, Sampling: 100}}, collect)
	named := func(name string) func(span) bool {
		return func(s span) bool { return s.resource["service.name"] == name }
	}
	x.start()
	x.until("spans of the mesh", false, named("gw"))

	p := tracingOf("p", otel())
	p.ServiceName, p.Sampling, p.FollowParent = "follows", ptr(0.0), true
	x.want(p)
	x.until("spans as clients want", true, named("follows"))
	if _, sampled := x.ask(false, nil); sampled {
		t.Error("a request that its client did not sample is sampled")
	}

	own := *p
	own.ServiceName, own.Sampling, own.FollowParent = "own", ptr(100.0), false
	x.want(&own)
	x.until("spans as the policy wants", false, named("own"))

	x.want(&model.Tracing{Policy: p.Policy})
	x.until("the mesh's spans, for ImplementationDefault", false, named("gw"))
	x.want(&model.Tracing{Policy: p.Policy, Off: true})
	until(t, "no request is sampled", func() error {
		if _, sampled := x.ask(true, nil); sampled {
			return errors.New("one is")
		}
		return nil
	})
}

// TestTracesByPolicyHeaders: headers of a policy reach the collector, a new value too, and Envoy's admin interface prints none.
func TestTracesByPolicyHeaders(t *testing.T) {
	x := newExporting(t, Config{}, collectHere)
	header := func(value string) *model.Tracing {
		return tracingOf("p", otel(model.SecretHeader{Name: "authorization", Value: value}, model.SecretHeader{Name: "x-tenant", Value: "shop 100%"}))
	}
	x.want(header("Bearer hunter2"))
	x.start()
	x.got.of(t, x.send(false, nil))
	if a, b := x.got.header("authorization"), x.got.header("x-tenant"); a != "Bearer hunter2" || b != "shop 100%" {
		t.Errorf("the collector gets %q and %q", a, b)
	}
	dump, err := x.e.get("/config_dump?include_eds")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(dump, "header|shop/gw/authorization") || strings.Contains(dump, "hunter2") || strings.Contains(dump, "shop 100%") {
		t.Errorf("the dump of the configuration names no secret, or prints one")
	}
	x.want(header("Bearer hunter3"))
	until(t, "the new value", func() error {
		x.got.of(t, x.send(false, nil))
		if v := x.got.header("authorization"); v != "Bearer hunter3" {
			return errors.New(v)
		}
		return nil
	})
	x.noRejections()
}

// TestTracesByPolicyTLS: a BackendTLSPolicy of the collector's Service gives TLS, and one that cannot be followed keeps spans in.
func TestTracesByPolicyTLS(t *testing.T) {
	x := newExporting(t, Config{}, collectHere)
	chain, key := x.ca.issue("", "otel.example")
	cert, err := stdtls.X509KeyPair(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	collectorAt(x.world, x.got.listen(t, grpc.Creds(credentials.NewServerTLSFromCert(&cert))))
	policy := &model.BackendTLS{
		Namespace: "observability", Service: "otel", Port: 4317, ServerName: "otel.example", SANs: []model.SubjectAltName{{DNS: "otel.example"}}, CA: string(x.ca.pem()),
	}
	put(x.world, x.st.BackendTLS, policy)
	x.want(tracingOf("p", otel()))
	x.start()
	x.got.of(t, x.send(false, nil))
	invalid := *policy
	invalid.Invalid = true
	put(x.world, x.st.BackendTLS, &invalid)
	b := &builder{st: x.st, snap: x.st.Snapshot(), cfg: &x.server.cfg}
	if load := exportEndpoints(b, "export|shop/gw", "shop/gw").message.(*endpoint.ClusterLoadAssignment); len(load.Endpoints) > 0 {
		t.Errorf("spans go to %v", load.Endpoints)
	}
	x.noRejections()
}

// TestSilentCollector: a collector that takes spans and does not answer has few requests at a time, and holds up nobody.
func TestSilentCollector(t *testing.T) {
	x := newExporting(t, Config{}, collectHere)
	x.got.silent = true
	x.want(tracingOf("p", otel()))
	x.start()
	most := func() int {
		x.got.mu.Lock()
		defer x.got.mu.Unlock()
		return x.got.most
	}
	// An export has five spans, and a request two: these are more exports than may be open.
	for range 20 * maxExports {
		if a := send(t, x.port, "GET", "x", "/", nil); a.status != 200 {
			t.Fatalf("status %d", a.status)
		}
	}
	until(t, "exports that wait", func() error {
		if most() == 0 {
			return errors.New("none")
		}
		return nil
	})
	if n := most(); n > maxExports {
		t.Errorf("%d exports are open at once, at most %d may be", n, maxExports)
	}
}
