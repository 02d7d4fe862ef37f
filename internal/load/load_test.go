package load_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server counts its connections and answers by path.
func server(t *testing.T, tls bool) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	var opened, n atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := n.Add(1)
		w.Header().Set(load.BackendHeader, fmt.Sprintf("v%d", i%2+1))
		switch r.URL.Path {
		case "/host":
			if r.Host != "web.example" || r.Header.Get("X-Test") != "yes" {
				w.WriteHeader(http.StatusBadRequest)
			}
		case "/every-fourth":
			if i%4 == 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		case "/close":
			w.Header().Set("Connection", "close")
		}
		_, _ = fmt.Fprintln(w, "hello")
	}))
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			opened.Add(1)
		}
	}
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, &opened
}

func run(t *testing.T, c load.Config) *load.Report {
	t.Helper()
	r, err := load.Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRunCounts(t *testing.T) {
	for _, tc := range []struct {
		name                     string
		path                     string
		newConns                 bool
		age                      time.Duration
		requests, failed, opened int
	}{
		{"keep-alive", "/", false, 0, 100, 0, 4},
		{"new connections", "/", true, 0, 100, 0, 100},
		{"server asks to close", "/close", false, 0, 20, 0, 20},
		{"no connection gets older than its first request", "/", false, time.Nanosecond, 20, 0, 20},
		{"bad statuses", "/every-fourth", false, 0, 100, 25, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, opened := server(t, false)
			seen := 0
			r := run(t, load.Config{URL: s.URL + tc.path, Workers: 4, NewConnections: tc.newConns, MaxAge: tc.age, Requests: tc.requests,
				Observe: func(load.Result) { seen++ }})
			if r.Requests != tc.requests || r.Failed != tc.failed || seen != tc.requests {
				t.Errorf("%d requests, %d failed, %d observed; want %d, %d", r.Requests, r.Failed, seen, tc.requests, tc.failed)
			}
			if r.Statuses[503] != tc.failed || r.Statuses[200] != tc.requests-tc.failed {
				t.Errorf("statuses %v", r.Statuses)
			}
			if got := r.Backends["v1"] + r.Backends["v2"]; got != tc.requests-tc.failed {
				t.Errorf("backends %v", r.Backends)
			}
			if got := int(opened.Load()); got != tc.opened {
				t.Errorf("%d connections opened, want %d", got, tc.opened)
			}
			if r.Quantile(0.5) <= 0 || r.Quantile(0.5) > r.Quantile(1) || r.Rate() <= 0 {
				t.Errorf("p50 %v, max %v, %v/s", r.Quantile(0.5), r.Quantile(1), r.Rate())
			}
		})
	}
}

func TestHostAndHeaders(t *testing.T) {
	s, _ := server(t, false)
	r := run(t, load.Config{URL: s.URL + "/host", Host: "web.example", Header: http.Header{"X-Test": {"yes"}}, Requests: 1})
	if r.Failed != 0 {
		t.Error(r.Failures())
	}
}

func TestTLSIsVerified(t *testing.T) {
	s, _ := server(t, true)
	if r := run(t, load.Config{URL: s.URL, Requests: 1}); r.Failed != 1 || !strings.Contains(r.Failures()[0], "TLS") {
		t.Errorf("unknown root: %v", r.Failures())
	}
	tc := s.Client().Transport.(*http.Transport).TLSClientConfig
	if r := run(t, load.Config{URL: s.URL, Host: "example.com:443", TLS: tc, Requests: 3}); r.Failed != 0 {
		t.Errorf("known root: %v", r.Failures())
	}
}

// A server that closes a kept-alive connection without a word fails the next request: a client that tries again by
// itself would hide it.
func TestClosedConnectionIsAFailure(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
			}
			_ = c.Close()
		}
	}()
	r := run(t, load.Config{URL: "http://" + ln.Addr().String(), Requests: 10})
	_ = ln.Close()
	<-done
	if r.Failed != 5 || r.Outage() <= 0 || r.FirstFailure.Before(r.First) || r.LastFailure.After(r.Last) {
		t.Errorf("%d of 10 failed (%v), outage %v; want every second", r.Failed, r.Failures(), r.Outage())
	}
}

func TestRefusedConnectionsCountTogether(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	r := run(t, load.Config{URL: "http://" + addr, Workers: 3, Requests: 9})
	if r.Failed != 9 || r.Statuses[0] != 9 || r.Errors["connect: connection refused"] != 9 {
		t.Errorf("%d failed: %v", r.Failed, r.Failures())
	}
}

func TestStopsByTimeAndOnRequest(t *testing.T) {
	s, _ := server(t, false)
	r := run(t, load.Config{URL: s.URL, Workers: 2, Duration: 50 * time.Millisecond, Rate: 1000, Ramp: 10 * time.Millisecond})
	if r.Requests == 0 || r.Failed != 0 {
		t.Errorf("by time: %d requests, %v", r.Requests, r.Failures())
	}
	l, err := load.Start(context.Background(), load.Config{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	if r := l.Stop(); r.Failed != 0 {
		t.Errorf("on request: %v", r.Failures())
	}
}

func TestBadConfigs(t *testing.T) {
	for _, c := range []load.Config{{URL: "ftp://x"}, {URL: "http://"}, {URL: "http://\x7f"}, {URL: "http://x", Requests: -1}} {
		if _, err := load.Run(context.Background(), c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

func TestReportForPeople(t *testing.T) {
	s, _ := server(t, false)
	r := run(t, load.Config{URL: s.URL + "/every-fourth", Requests: 8})
	var b strings.Builder
	if _, err := r.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"8 requests, 2 failed", "status 503", "from v1", "2× status 503"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in:\n%s", want, b.String())
		}
	}
}
