package node

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/lab"
)

// metricsPage returns what the agent answers to Prometheus.
func metricsPage(path string) (string, error) {
	r, err := http.Get("http://" + metricsAddress + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %.500s %w", r.Status, text, err)
	}
	return string(text), nil
}

// scrape returns the sum of the agent's series of a name whose labels match all expressions.
func scrape(name string, labels ...string) (float64, error) {
	text, err := metricsPage("/metrics")
	if err != nil {
		return 0, err
	}
	sum := 0.0
lines:
	for line := range strings.Lines(text) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if !strings.HasPrefix(series, name+"{") {
			continue
		}
		for _, l := range labels {
			if !regexp.MustCompile(`[{,]` + l + `(,|$)`).MatchString(series) {
				continue lines
			}
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// connects opens a connection and ends it.
func connects(from *lab.Pod, addr string) error {
	s, err := open(from, addr)
	if err != nil {
		return err
	}
	return s.Close()
}

// counted is a metric that something must make grow.
type counted struct {
	what, name string
	labels     []string
	do         func() error
}

// grow does what is counted, and waits until the metrics say so.
func grow(t *testing.T, cases []counted) {
	t.Helper()
	for _, c := range cases {
		before, err := scrape(c.name, c.labels...)
		if err != nil {
			t.Fatal(err)
		}
		until(t, c.what, c.do)
		until(t, "metrics of "+c.what, func() error {
			after, err := scrape(c.name, c.labels...)
			if err == nil && after <= before {
				err = fmt.Errorf("%s%v is %g as before", c.name, c.labels, after)
			}
			return err
		})
	}
}

const (
	fromStrict = `source_workload="alice"`
	aliceID    = `source_identity="spiffe://cluster.local/ns/strict/sa/alice"`
	withMTLS   = `mtls="true"`
	inTheClear = `mtls="false"`
)

// trafficMetrics: what the kernel, weft tunnel and Envoy count is there for Prometheus, from a real node.
func trafficMetrics(t *testing.T, m *mesh) {
	t.Run("connections", func(t *testing.T) { connectionMetrics(t, m) })
	t.Run("requests", func(t *testing.T) { requestMetrics(t, m) })
}

func connectionMetrics(t *testing.T, m *mesh) {
	alice, plain, srv := m.Pod("strict", "alice"), m.Pod("plain", "c"), m.Pod("guard", "srv")
	m.apply(t, policy(fromAlice))
	const fromPlain = `source_workload="c"`
	grow(t, []counted{
		{"authenticated connections that are open", "weft_tcp_connections_opened_total", []string{`reporter="destination"`, fromStrict, aliceID,
			withMTLS, `destination_workload="srv"`, `destination_namespace="guard"`}, func() error { return connects(alice, at(srv.Address, 7070)) }},
		{"authenticated connections that have ended", "weft_tcp_connections_closed_total", []string{`reporter="source"`, fromStrict, aliceID,
			withMTLS, `destination_workload="srv"`, `verdict="forwarded"`}, func() error { return connects(alice, at(srv.Address, 7070)) }},
		{"refused connections", "weft_tcp_connections_refused_total", []string{`reporter="destination"`, fromPlain, inTheClear,
			`destination_workload="srv"`, `destination_namespace="strict"`, `reason="plaintext to a strict workload"`},
			func() error { return refused(plain, at(m.Pod("strict", "srv").Address, 7070)) }},
		{"bytes in the kernel", "weft_tcp_received_bytes_total", []string{`reporter="source"`, fromPlain, inTheClear, `destination_service="l4"`},
			func() error { return want(plain, at(serviceIPs("plain", "l4")[0], 80), request{path: "/"}, 200, "") }},
		{"round trips in the kernel", "weft_tcp_rtt_seconds_count", []string{`reporter="source"`, fromPlain, `destination_service="l4"`},
			func() error { return want(plain, at(serviceIPs("plain", "l4")[0], 80), request{path: "/"}, 200, "") }},
	})
}

func requestMetrics(t *testing.T, m *mesh) {
	alice, plain, srv := m.Pod("strict", "alice"), m.Pod("plain", "c"), m.Pod("guard", "srv")
	m.apply(t, policy(fromAlice+"      http: [{methods: [GET], paths: [{type: PathPrefix, value: /a}]}]\n")+"---\n"+gatewayManifest+"---\n"+grpcManifest)
	l7 := at(serviceIPs("strict", "l7")[0], 80)
	toGuard := []string{`reporter="destination"`, `destination_workload="srv"`, `destination_namespace="guard"`}
	grow(t, []counted{
		{"requests", "weft_requests_total", []string{`reporter="source"`, fromStrict, `source_namespace="strict"`, aliceID, withMTLS,
			`destination_namespace="strict"`, `destination_service="l7"`, `response_class="2xx"`, `verdict="forwarded"`, `protocol="http"`},
			func() error { return want(alice, l7, request{path: "/counted"}, 200, "") }},
		{"durations of requests", "weft_request_duration_seconds_count", []string{`reporter="source"`, fromStrict, `destination_service="l7"`},
			func() error { return want(alice, l7, request{path: "/timed"}, 200, "") }},
		{"requests that a policy allows", "weft_requests_total", slices.Concat(toGuard, []string{fromStrict, aliceID, withMTLS, `response_class="2xx"`, `verdict="forwarded"`}),
			func() error { return want(alice, at(srv.Address, 8080), request{path: "/a"}, 200, "") }},
		{"requests that a policy refuses", "weft_requests_total", slices.Concat(toGuard, []string{fromStrict, aliceID, withMTLS, `response_class="4xx"`, `verdict="refused"`}),
			func() error { return want(alice, at(srv.Address, 8080), request{path: "/b"}, 403, "") }},
		{"requests in the clear that a policy refuses", "weft_requests_total", slices.Concat(toGuard, []string{`source_workload="c"`, `source_namespace="plain"`,
			`source_identity=""`, inTheClear, `response_class="4xx"`, `verdict="refused"`}),
			func() error { return want(plain, at(srv.Address, 8080), request{path: "/a"}, 403, "") }},
		{"requests to a Gateway", "weft_requests_total", []string{`reporter="gateway"`, `source_workload="edge"`, `source_kind="Gateway"`,
			`source_namespace="strict"`, withMTLS, `destination_workload="srv"`, `destination_namespace="strict"`, `destination_service="srv"`, `response_class="2xx"`},
			func() error {
				return want(m.outside, "10.98.0.1:80", request{path: "/", host: "shop.example"}, 200, "")
			}},
		{"calls by gRPC", "weft_requests_total", []string{`reporter="source"`, `source_workload="c"`, `source_namespace="plain"`, inTheClear,
			`protocol="grpc"`, `grpc_status="5"`, `response_class="2xx"`, `verdict="forwarded"`, `destination_workload="s1"`, `destination_service="s1"`},
			func() error { return grpcCalls(t, plain, at(serviceIPs("plain", "echo")[0], 90)) }},
	}) // Envoy's own page has them neither by client nor by code.
	if page, err := metricsPage("/metrics/proxy"); err != nil || strings.Contains(page, "envoy_weft_") || !strings.Contains(page, "envoy_http_downstream_rq_completed") {
		t.Errorf("%v %.2000s", err, page)
	}
}
