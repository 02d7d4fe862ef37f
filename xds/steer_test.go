package xds

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// steering are headers by which Envoy would repeat a request, end it early, or answer in another way than its route says.
var steering = map[string]string{
	"x-envoy-retry-on": "5xx,retriable-4xx", "x-envoy-max-retries": "30", "x-envoy-retriable-status-codes": "503",
	"x-envoy-retry-grpc-on": "unavailable", "x-envoy-upstream-rq-timeout-ms": "50", "x-envoy-upstream-rq-per-try-timeout-ms": "50",
	"x-envoy-hedge-on-per-try-timeout": "true", "x-envoy-upstream-rq-timeout-alt-response": "1", "x-envoy-expected-rq-timeout-ms": "50",
	"x-envoy-internal": "true",
}

// Neither a Gateway's client nor the author of a route has more of Envoy than the route's own fields say. The client may say that
// it comes from inside.
func TestNobodySteersAGateway(t *testing.T) {
	w := newWorld(t, Config{})
	b := backend(t, w, "web")
	port := freePort(t)
	web := []model.Backend{to("web", 1)}
	change := func(name, value string) model.HeaderChange {
		return model.HeaderChange{Add: []model.Header{{Name: name, Value: value}}}
	}
	rules := []model.Rule{{Match: path(model.MatchPrefix, "/plain"), Backends: web}}
	for name, value := range steering {
		own := to("web", 1)
		own.RequestHeaders = change(name, value)
		rules = append(rules,
			model.Rule{Match: path(model.MatchPrefix, "/rule/"+name), Backends: web, RequestHeaders: change(name, value)},
			model.Rule{Match: path(model.MatchPrefix, "/backend/"+name), Backends: []model.Backend{own}})
	}
	gatewayWith(w, port, rules...)
	w.envoy().until("the Gateway", func() error { _, err := trySend(port, "GET", "x", "/plain", nil); return err })
	w.noRejections()
	for name := range steering {
		for _, at := range []string{"/rule/", "/backend/"} {
			hits := b.hits.Load()
			if a := send(t, port, "GET", "x", at+name, nil); a.status != 500 || b.hits.Load() != hits {
				t.Errorf("%s: status %d, %d requests, want 500 and none", at+name, a.status, b.hits.Load()-hits)
			}
		}
	}
	for _, from := range []string{"", "10.0.0.1", "127.0.0.1", "::1"} {
		header := map[string]string{"x-sleep": "200ms"}
		for name, value := range steering {
			header[name] = value
		}
		if from != "" {
			header["x-forwarded-for"] = from
		}
		hits := b.hits.Load()
		if a := send(t, port, "GET", "x", "/plain", header); a.status != 200 || b.hits.Load() != hits+1 {
			t.Errorf("a slow answer: status %d after %d requests", a.status, b.hits.Load()-hits)
		}
		delete(header, "x-sleep")
		b.fail.Store(1000)
		hits = b.hits.Load()
		if a := send(t, port, "GET", "x", "/plain", header); a.status != 503 || b.hits.Load() != hits+1 {
			t.Errorf("a failure: status %d after %d requests", a.status, b.hits.Load()-hits)
		}
		b.fail.Store(0)
	}
}

// TestNobodySteersAPodsEnvoy: nor does a pod have more of the Envoy that takes its requests.
func TestNobodySteersAPodsEnvoy(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{})
	a, b := workload(pods[0], "shop", model.MTLSDisabled, nil), workload(pods[1], "shop", model.MTLSDisabled, nil)
	put(w, w.st.Workloads, a, b)
	var hits atomic.Int64
	l, err := pods[1].Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		if r.URL.Path == "/slow" {
			time.Sleep(200 * time.Millisecond)
			return
		}
		rw.WriteHeader(503)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	loopbackService(w, "echo", endpointOf(b, 0, 8080))
	w.envoy()
	var more strings.Builder
	for name, value := range steering {
		more.WriteString("\r\n" + name + ": " + value)
	}
	for _, from := range []string{"", "\r\nx-forwarded-for: 10.0.0.1", "\r\nx-forwarded-for: 127.0.0.1"} {
		for path, want := range map[string]int{"/slow": 200, "/fails": 503} {
			hits.Store(0)
			status, body, err := ask(pods[0], "127.0.0.1:15001", "echo.shop"+more.String()+from, path)
			if err != nil || status != want || hits.Load() != 1 {
				t.Errorf("%s%s: status %d (%s), %v, after %d requests, want %d after 1", path, from, status, body, err, hits.Load(), want)
			}
		}
	}
}
