package xds

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// unevenServer answers by the path: /whole, /half (the connection ends in the middle of the answer), /never, /slow (the start of an
// answer, and no more of it until the client goes), /upgrade (bytes are returned until the client ends the connection, or
// until it sends "bye\n").
func unevenServer(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	l, err := p.Listen("tcp", netip.AddrPortFrom(p.Address, port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go serveEach(l, func(c net.Conn) {
		defer context.AfterFunc(t.Context(), func() { _ = c.Close() })()
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			const half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
			switch r.URL.Path {
			case "/half":
				_, _ = io.WriteString(c, half)
				return
			case "/slow":
				_, _ = io.WriteString(c, half)
				_, _ = io.Copy(io.Discard, in)
				return
			case "/never":
				_, _ = io.Copy(io.Discard, in)
				return
			case "/upgrade":
				_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
				for line, err := in.ReadString('\n'); err == nil && line != "bye\n"; line, err = in.ReadString('\n') {
					_, _ = io.WriteString(c, line)
				}
				return
			default:
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole")
			}
		}
	})
}

// answeredAndFailed reads how many requests a real Envoy has in the histogram without a flag, and in the counter.
func answeredAndFailed(e *envoy) (answered, failed int, err error) {
	text, err := e.get(`/stats/prometheus?filter=^weft\.`)
	if err != nil {
		return 0, 0, err
	}
	for _, m := range regexp.MustCompile(`(?m)^(\w+)\{(.*)\} (\d+)$`).FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[3])
		if err != nil {
			return 0, 0, err
		}
		switch {
		case m[1] == "envoy_weft_answered_count" && strings.Contains(m[2], ".|flags.-."):
			answered += n
		case m[1] == "envoy_weft_failed":
			failed += n
		}
	}
	return answered, failed, nil
}

// TestRequestsOfAllEndsAreCounted: however a request ends, a real Envoy has it in the histogram without a flag, or in the counter.
func TestRequestsOfAllEndsAreCounted(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{RequestStats: true})
	a, b := workload(pods[0], "shop", model.MTLSDisabled, nil), workload(pods[1], "shop", model.MTLSDisabled, nil)
	put(w, w.st.Workloads, a, b)
	unevenServer(t, pods[1], 8080)
	loopbackService(w, "uneven", endpointOf(b, 0, 8080))
	e := w.envoy()
	until(t, "an answer", func() error {
		status, body, err := ask(pods[0], "127.0.0.1:15001", "uneven.shop", "/whole")
		if status != http.StatusOK || body != "whole" {
			return fmt.Errorf("%d %q %w", status, body, err)
		}
		return nil
	})
	var answered, failed int
	until(t, "the answer to be counted", func() (err error) {
		if answered, failed, err = answeredAndFailed(e); answered != 1 {
			err = fmt.Errorf("%d answered: %v", answered, err)
		}
		return err
	})
	send := func(text string) (net.Conn, *bufio.Reader) {
		t.Helper()
		c := dialPod(t, pods[0], "127.0.0.1:15001")
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c, bufio.NewReader(c)
	}
	// status reads the first line of an answer.
	status := func(r *bufio.Reader, want string) {
		t.Helper()
		if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, want) {
			t.Fatalf("%q %v, want %s", line, err, want)
		}
	}
	const upgrade = "GET /upgrade HTTP/1.1\r\nHost: uneven.shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: uneven.shop\r\n\r\n" }
	for _, end := range []struct {
		name             string
		answered, failed int
		do               func()
	}{
		{"a whole answer", 1, 0, func() { _, r := send(get("/whole")); status(r, "200") }},
		{"the client goes before the answer", 0, 1, func() { c, _ := send(get("/never")); awaitActive(t, e); _ = c.Close() }},
		{"the client goes in the middle of the answer", 0, 1, func() { c, r := send(get("/slow")); status(r, "200"); _ = c.Close() }},
		{"the server goes in the middle of the answer", 0, 1, func() { _, r := send(get("/half")); status(r, "200") }},
		{"the client ends an upgraded connection", 0, 1, func() { c, r := send(upgrade); status(r, "101"); _ = c.Close() }},
		{"the server ends an upgraded connection", 0, 1, func() { c, r := send(upgrade); status(r, "101"); _, _ = io.WriteString(c, "bye\n") }},
		{"a stream of HTTP/2 is reset", 0, 1, func() { resetStream(t, pods[0], e) }},
		{"a request that is none", 0, 1, func() { _, r := send("GET / HTTP/1.1\r\nno header\r\n\r\n"); status(r, "400") }},
	} {
		t.Run(end.name, func(t *testing.T) {
			end.do()
			answered, failed = answered+end.answered, failed+end.failed
			until(t, "the counts", func() error {
				if a, f, err := answeredAndFailed(e); a != answered || f != failed {
					return fmt.Errorf("%d answered and %d failed, want %d and %d: %v", a, f, answered, failed, err)
				}
				return nil
			})
		})
	}
	w.noRejections()
}

// awaitActive waits until Envoy waits for an answer.
func awaitActive(t *testing.T, e *envoy) {
	t.Helper()
	until(t, "a request that waits", func() error {
		text, err := e.get("/stats?filter=^http." + outHTTP + ".downstream_rq_active$")
		if err == nil && strings.HasSuffix(strings.TrimSpace(text), ": 0") {
			err = errors.New(text)
		}
		return err
	})
}

// resetStream asks by HTTP/2 and goes away in the middle of the answer.
func resetStream(t *testing.T, from *lab.Pod, e *envoy) {
	t.Helper()
	p := &http.Protocols{}
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return from.Dial(ctx, "tcp", "127.0.0.1:15001")
	}}
	t.Cleanup(tr.CloseIdleConnections)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://uneven.shop/slow", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = answer.Body.Close()
	awaitNone(t, e)
}

// awaitNone waits until Envoy waits for no answer.
func awaitNone(t *testing.T, e *envoy) {
	t.Helper()
	until(t, "no request that waits", func() error {
		text, err := e.get("/stats?filter=^http." + outHTTP + ".downstream_rq_active$")
		if err == nil && !strings.HasSuffix(strings.TrimSpace(text), ": 0") {
			err = errors.New(text)
		}
		return err
	})
}
