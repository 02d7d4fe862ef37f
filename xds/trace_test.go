package xds

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/testenv"
)

// spans takes spans by OTLP.
type spans struct {
	mu  sync.Mutex
	all []span
	// headers are those of the last request, where the test takes spans itself.
	headers metadata.MD
	// silent has requests not answered before they end; open counts those under way, and most is the largest such count.
	silent     bool
	open, most int
}

// wait counts a request, and ends with it where none is answered.
func (s *spans) wait(ctx context.Context) {
	s.mu.Lock()
	s.open++
	s.most = max(s.most, s.open)
	silent := s.silent
	s.mu.Unlock()
	if silent {
		<-ctx.Done()
	}
	s.mu.Lock()
	s.open--
	s.mu.Unlock()
}

// receive takes in a request.
func (s *spans) receive(ctx context.Context, r *trace.TracesData) {
	s.mu.Lock()
	s.headers, _ = metadata.FromIncomingContext(ctx)
	s.mu.Unlock()
	s.take(r)
	s.wait(ctx)
}

// span is what is looked at of a span.
type span struct {
	traceID    string
	kind       trace.Span_SpanKind
	name       string
	resource   map[string]string
	attributes map[string]string
}

func (s *spans) take(r *trace.TracesData) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range r.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			for _, sp := range scope.Spans {
				s.all = append(s.all, span{fmt.Sprintf("%x", sp.TraceId), sp.Kind, sp.Name, stringsOf(of.Resource.Attributes), stringsOf(sp.Attributes)})
			}
		}
	}
}

func stringsOf(all []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range all {
		out[kv.Key] = kv.Value.GetStringValue()
	}
	return out
}

// of waits for the server's span of a trace.
func (s *spans) of(t *testing.T, traceID string) (out span) {
	t.Helper()
	until(t, "the span of trace "+traceID, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, sp := range s.all {
			if sp.traceID == traceID && sp.kind == trace.Span_SPAN_KIND_SERVER {
				out = sp
				return nil
			}
		}
		return fmt.Errorf("there are %d spans", len(s.all))
	})
	return out
}

// has reports whether there is a span of a trace.
func (s *spans) has(traceID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.all {
		if sp.traceID == traceID {
			return true
		}
	}
	return false
}

// collect serves a collector, and makes it the endpoint of the Service that the traces go to. With $OTEL_COLLECTOR it is that
// program, which sends what it gets on to the test: see make traces.
func collect(t *testing.T, w *world) *spans {
	t.Helper()
	program := os.Getenv("OTEL_COLLECTOR")
	if program == "" {
		return collectHere(t, w)
	}
	s := &spans{}
	collectorAt(w, testenv.TraceCollector(t, program, s.take))
	return s
}

// collectHere is collect for what only a collector of the test's own shows: headers, TLS, silence.
func collectHere(t *testing.T, w *world) *spans {
	t.Helper()
	s := &spans{}
	collectorAt(w, s.listen(t))
	return s
}

// listen takes spans at an address of its own, which it returns.
func (s *spans) listen(t *testing.T, options ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(options...)
	g.RegisterService(testenv.TraceService(s.receive), nil)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	return l.Addr().String()
}

// collectorAt makes an address the endpoint of the collector's Service.
func collectorAt(w *world, at string) {
	put(w, w.st.Endpoints, &model.Endpoints{Service: "observability/otel", Port: 4317, Protocol: model.TCP,
		Backends: []model.Endpoint{{Address: netip.MustParseAddrPort(at)}}})
}

func parentOf(traceID, flags string) string { return "00-" + traceID + "-00f067aa0ba902b7-" + flags }

func traceID(n int) string { return fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e%04x", n) }

// TestTracesOfPods: a real Envoy reports a workload's requests to a collector, as the caller or the namespace wants, and passes
// the context on.
func TestTracesOfPods(t *testing.T) {
	pods := labPods(t, "a", "b", "c")
	w := newWorld(t, Config{Node: "n1", Traces: &Traces{Namespace: "observability", Service: "otel", Port: 4317, Sampling: 100}})
	got := collect(t, w)
	a, b, c := workload(pods[0], "shop", model.MTLSDisabled, nil), workload(pods[1], "shop", model.MTLSDisabled, nil), workload(pods[2], "shop", model.MTLSDisabled, nil)
	a.Owner, b.TraceSampling = model.Owner{Kind: "Deployment", Name: "front"}, ptr(0.0)
	put(w, w.st.Workloads, a, b, c)
	served := headersAt(t, pods[2].Address, pods[2].Listen)
	loopbackService(w, "echo", endpointOf(c, 0, 8080))
	w.envoy()
	w.noRejections()
	send := func(from int, header string) http.Header {
		t.Helper()
		var h http.Header
		until(t, "an answer", func() error {
			status, err := askWith(pods[from], "127.0.0.1:15001", header)
			if err == nil && status != 200 {
				err = fmt.Errorf("status %d", status)
			}
			return err
		})
		h = <-served
		return h
	}
	h := send(0, "")
	id, _, _ := strings.Cut(strings.TrimPrefix(h.Get("traceparent"), "00-"), "-")
	if len(id) != 32 || !strings.HasSuffix(h.Get("traceparent"), "-01") {
		t.Fatalf("the backend gets traceparent %q", h.Get("traceparent"))
	}
	s := got.of(t, id)
	for name, want := range map[string]string{"service.name": "front", "service.namespace": "shop", "k8s.pod.name": a.Name, "k8s.namespace.name": "shop", "k8s.node.name": "n1"} {
		if s.resource[name] != want {
			t.Errorf("%s is %q, want %q", name, s.resource[name], want)
		}
	}
	if u := s.attributes["http.url"]; u != "http://echo.shop/path" {
		t.Errorf("http.url is %q", u)
	}
	if !strings.HasPrefix(s.name, "GET ") {
		t.Errorf("the span's name is %q", s.name)
	}
	// The caller's decision counts, in both namespaces.
	for n, c := range []struct {
		from    int
		flags   string
		sampled bool
	}{{0, "00", false}, {0, "01", true}, {1, "00", false}, {1, "01", true}} {
		id := traceID(n)
		h := send(c.from, "traceparent: "+parentOf(id, c.flags))
		if p := h.Get("traceparent"); !strings.Contains(p, id) || !strings.HasSuffix(p, c.flags) || strings.Contains(p, "00f067aa0ba902b7") && c.sampled {
			t.Errorf("the backend gets traceparent %q", p)
		}
		if c.sampled {
			got.of(t, id)
		}
	}
	if h := send(1, ""); strings.HasSuffix(h.Get("traceparent"), "-01") {
		t.Errorf("a namespace that wants no traces has traceparent %q", h.Get("traceparent"))
	}
	for n, sampled := range []bool{false, true, false, true} {
		if has := got.has(traceID(n)); has != sampled {
			t.Errorf("trace %d has spans: %v", n, has)
		}
	}
}

// TestTracesOfGateways: clients of a Gateway cannot have their requests sampled.
func TestTracesOfGateways(t *testing.T) {
	w := newWorld(t, Config{Traces: &Traces{Namespace: "observability", Service: "otel", Port: 4317, Sampling: 0}})
	got := collect(t, w)
	backend(t, w, "v1")
	port := freePort(t)
	gatewayWith(w, port, model.Rule{Match: path(model.MatchPrefix, "/"), Backends: []model.Backend{to("v1", 1)}})
	e := w.envoy()
	e.until("listener", func() error { _, err := trySend(port, "GET", "x", "/", nil); return err })
	w.noRejections()
	send(t, port, "GET", "x", "/", map[string]string{"traceparent": parentOf(traceID(1), "01")})
	g, _ := w.st.Gateways.Get(w.st.Snapshot(), "shop/gw")
	if g == nil {
		for row := range w.st.Gateways.All(w.st.Snapshot()) {
			g = row
		}
	}
	changed := *g
	changed.TraceSampling = ptr(100.0)
	put(w, w.st.Gateways, &changed)
	until(t, "a span of the Gateway", func() error {
		send(t, port, "GET", "x", "/", map[string]string{"traceparent": parentOf(traceID(2), "00")})
		if !got.has(traceID(2)) {
			return fmt.Errorf("none yet")
		}
		return nil
	})
	if s := got.of(t, traceID(2)); s.resource["service.name"] != g.Name {
		t.Errorf("%+v", s.resource)
	}
	if got.has(traceID(1)) {
		t.Error("a client had its request sampled")
	}
}

// TestCollectorAway: requests do not wait for a collector that is not there.
func TestCollectorAway(t *testing.T) {
	w := newWorld(t, Config{Traces: &Traces{Namespace: "observability", Service: "otel", Port: 4317, Sampling: 100}})
	backend(t, w, "v1")
	port := freePort(t)
	gatewayWith(w, port, model.Rule{Match: path(model.MatchPrefix, "/"), Backends: []model.Backend{to("v1", 1)}})
	e := w.envoy()
	e.until("listener", func() error { _, err := trySend(port, "GET", "x", "/", nil); return err })
	w.noRejections()
	for range 100 {
		if a := send(t, port, "GET", "x", "/", nil); a.status != 200 {
			t.Fatalf("status %d", a.status)
		}
	}
}

// headersAt answers requests at a pod's port 8080 and gives their headers.
func headersAt(t *testing.T, a netip.Addr, listen func(network, address string) (net.Listener, error)) <-chan http.Header {
	t.Helper()
	l, err := listen("tcp", netip.AddrPortFrom(a, 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan http.Header, 100)
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case out <- r.Header:
		default:
		}
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return out
}

// askWith sends a request with a header line from a pod, and gives the status.
func askWith(p *lab.Pod, at, header string) (int, error) {
	c, err := p.Dial(context.Background(), "tcp", at)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if header != "" {
		header += "\r\n"
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, "GET /path?token=secret HTTP/1.1\r\nHost: echo.shop\r\n%sConnection: close\r\n\r\n", header); err != nil {
		return 0, err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	return r.StatusCode, r.Body.Close()
}
