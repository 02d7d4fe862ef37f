package xds

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// refusingPeer answers every CONNECT as a policy does, and counts them.
func refusingPeer(t *testing.T, p *lab.Pod, cfg *tls.Config, at ...string) *atomic.Int64 {
	t.Helper()
	var connects atomic.Int64
	for _, a := range at {
		l, err := p.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{TLSConfig: cfg, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
			Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				connects.Add(1)
				rw.WriteHeader(http.StatusForbidden)
			})}
		go func() { _ = s.ServeTLS(l, "", "") }()
		t.Cleanup(func() { _ = s.Close() })
	}
	return &connects
}

// requestBy sends one with a method from a pod, and gives the status.
func requestBy(t *testing.T, p *lab.Pod, method, at string) int {
	t.Helper()
	conn, err := p.Dial(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(conn, "%s / HTTP/1.1\r\nHost: echo.shop\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", method); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// A tunnel that the destination's policy refuses is asked for once more, as one whose connection went away. A GET may be
// more often: its route cannot tell a refusal from a connection that broke.
func TestRefusedTunnels(t *testing.T) {
	pods := labPods(t, "a", "b", "c")
	w := newWorld(t, Config{})
	a, b, c := workload(pods[0], "shop", model.MTLSStrict, nil), workload(pods[1], "shop", model.MTLSStrict, nil), workload(pods[2], "shop", model.MTLSStrict, nil)
	// Without the kernel's hooks the original destination of bytes is the listener's own address.
	self := &model.Workload{Namespace: "shop", Name: "d", Identity: identity("shop", "d"), MTLS: model.MTLSStrict,
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	put(w, w.st.Workloads, a, c, self)
	put(w, w.st.SVIDs, w.ca.svid(a.Identity), w.ca.svid(c.Identity))
	requests := refusingPeer(t, pods[1], w.ca.tlsConfig(b.Identity), netip.AddrPortFrom(pods[1].Address, PortHBONE).String())
	bytes := refusingPeer(t, pods[0], w.ca.tlsConfig(self.Identity), "127.0.0.1:15008")
	echo(t, pods[2], 8080, "c")
	loopbackService(w, "echo", endpointOf(b, 0, 8080))
	w.envoy()
	w.noRejections()

	for method, most := range map[string]int64{"GET": 8, "POST": 2} {
		requests.Store(0)
		if status := requestBy(t, pods[0], method, "127.0.0.1:15001"); status != 503 {
			t.Errorf("%s: status %d", method, status)
		}
		if n := requests.Load(); n < 1 || n > most {
			t.Errorf("%s: %d tunnels were asked for, want at most %d", method, n, most)
		}
	}
	conn, err := pods[0].Dial(t.Context(), "tcp", "127.0.0.1:15002")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("bytes got in")
	}
	if n := bytes.Load(); n < 1 || n > 2 {
		t.Errorf("for bytes %d tunnels were asked for, want 1 or 2", n)
	}

	// An endpoint that refuses beside one that does not: what may be repeated gets to the other.
	loopbackService(w, "echo", endpointOf(b, 0, 8080), endpointOf(c, 0, 8080))
	until(t, "the other endpoint is used", func() error {
		if status := requestBy(t, pods[0], "GET", "127.0.0.1:15001"); status != 200 {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
	for range 20 {
		if status := requestBy(t, pods[0], "GET", "127.0.0.1:15001"); status != 200 {
			t.Errorf("status %d beside an endpoint that serves", status)
		}
	}
}

// What a backend may have processed is sent again only if the method changes nothing or the rule bounds the time of a try.
func TestRetriesOfWhatMayHaveBeenProcessed(t *testing.T) {
	w := newWorld(t, Config{})
	b := backend(t, w, "v1")
	port := freePort(t)
	rule := func(at string, retry *model.Retry, try *time.Duration) model.Rule {
		return model.Rule{Match: path(model.MatchPrefix, at), Backends: []model.Backend{to("v1", 1)}, Retry: retry, BackendTimeout: try}
	}
	gatewayWith(w, port, rule("/plain", nil, nil), rule("/retry", &model.Retry{Attempts: 2}, nil),
		rule("/tries", &model.Retry{Attempts: 2}, ptr(5*time.Second)), rule("/never", &model.Retry{}, nil))
	w.envoy().until("listener", func() error { _, err := trySend(port, "GET", "x", "/plain", nil); return err })
	w.noRejections()
	for _, c := range []struct {
		method, path string
		hits         int64
	}{
		{"GET", "/plain", 4}, {"POST", "/plain", 1},
		{"GET", "/retry", 3}, {"POST", "/retry", 1},
		{"GET", "/tries", 3}, {"POST", "/tries", 3},
		{"GET", "/never", 1}, {"POST", "/never", 1},
	} {
		before := b.hits.Load()
		if a := send(t, port, c.method, "x", c.path, map[string]string{"x-break": "1"}); a.status != 503 {
			t.Errorf("%s %s: status %d", c.method, c.path, a.status)
		}
		if n := b.hits.Load() - before; n != c.hits {
			t.Errorf("%s %s: %d tries, want %d", c.method, c.path, n, c.hits)
		}
	}
}
