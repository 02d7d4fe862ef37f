package xds

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// A route may lead a request back to its Gateway, with copies of it, and may take headers away. What becomes of one request
// has an end, whatever its client says of it.
func TestLoopsEnd(t *testing.T) {
	w := newWorld(t, Config{RequestLog: true})
	b := backend(t, w, "web")
	port := freePort(t)
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: "loop", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/loop", Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{
		{Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)},
	}})
	loop, web := []model.Backend{to("loop", 1)}, []model.Backend{to("web", 1)}
	forget := model.HeaderChange{Remove: []string{"x-forwarded-for", "via", "x-request-id"}}
	forgetful := to("loop", 1)
	forgetful.RequestHeaders = forget
	twice := []model.Mirror{{Backend: to("loop", 1), Numerator: 100, Denominator: 100}, {Backend: to("loop", 1), Numerator: 100, Denominator: 100}}
	once := &model.Rewrite{Path: &model.PathChange{Full: ptr("/web")}}
	gatewayWith(w, port,
		model.Rule{Match: path(model.MatchPrefix, "/web"), Backends: web},
		model.Rule{Match: path(model.MatchPrefix, "/loop"), Backends: loop},
		model.Rule{Match: path(model.MatchPrefix, "/forget"), Backends: loop, RequestHeaders: forget},
		model.Rule{Match: path(model.MatchPrefix, "/remove"), Backends: loop, RequestHeaders: model.HeaderChange{Remove: []string{passedHeader}}},
		model.Rule{Match: path(model.MatchPrefix, "/set"), Backends: loop, RequestHeaders: model.HeaderChange{Set: []model.Header{{Name: passedHeader, Value: "x"}}}},
		model.Rule{Match: path(model.MatchPrefix, "/backend"), Backends: []model.Backend{forgetful}},
		model.Rule{Match: path(model.MatchPrefix, "/twice"), Backends: loop, Rewrite: once},
		model.Rule{Match: path(model.MatchPrefix, "/copies"), Backends: web, Mirrors: twice, RequestHeaders: forget},
	)
	e := w.envoy()
	e.until("the Gateway", func() error { _, err := trySend(port, "GET", "x", "/web", nil); return err })
	w.noRejections()
	total := func() int { return e.stat("http.gateway.downstream_rq_total") }

	for _, test := range []struct {
		path, marks      string
		status, requests int
	}{
		{"/web", "", 200, 1}, {"/twice", "", 200, 2}, {"/twice", strings.Repeat(".", maxPasses-2), 200, 2},
		{"/twice", strings.Repeat(".", maxPasses-1), 508, 2}, {"/web", strings.Repeat(".", maxPasses), 508, 1},
		{"/loop", "", 508, maxPasses + 1}, {"/loop", "x,y", 508, maxPasses + 1},
		{"/forget", "", 508, maxPasses + 1}, {"/backend", "", 508, maxPasses + 1},
		{"/remove", "", 500, 1}, {"/set", "", 500, 1},
		{"/loop", "\r\nx-weft-passed: x", 508, maxPasses + 1},
	} {
		before := total()
		a := send(t, port, "GET", "x", test.path, map[string]string{passedHeader: test.marks})
		if n := total() - before; a.status != test.status || n != test.requests {
			t.Errorf("%s with the marks %q: status %d after %d requests, want %d after %d", test.path, test.marks, a.status, n, test.status, test.requests)
		}
		if test.status == 508 && a.body != "" {
			t.Errorf("%s is answered with the body %q", test.path, a.body)
		}
	}

	// A copy comes to the Gateway, whose copies of it do not pass it: 1 + 2 + 4 requests, of which 1 + 2 reach the backend.
	before, hits := total(), b.hits.Load()
	if a := send(t, port, "GET", "x", "/copies", nil); a.status != 200 {
		t.Errorf("status %d", a.status)
	}
	e.until("the copies", func() error {
		if n := total() - before; n != 7 {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
	time.Sleep(200 * time.Millisecond)
	if n, h := total()-before, b.hits.Load()-hits; n != 7 || h != 3 {
		t.Errorf("a request with copies became %d requests, of which %d reached the backend", n, h)
	}
	until(t, "the flow of a loop", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, f := range w.flows {
			if f.Request != nil && f.Request.Status == 508 && f.Failure == "gateway_loop" {
				return nil
			}
		}
		return fmt.Errorf("none in %d", len(w.flows))
	})
}
