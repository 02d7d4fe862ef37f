package xds

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// echoesFromBoth asks the Service of the echoes b and c from a pod: both answer, and see the client and none of the proxy's headers.
func echoesFromBoth(t *testing.T, from *lab.Pod) {
	t.Helper()
	seen := map[string]bool{}
	for _, at := range []string{"127.0.0.1:15001", "[::1]:15001"} {
		for i := range 32 {
			status, body, err := ask(from, at, "echo.shop", fmt.Sprint("/", i))
			if err != nil || status != 200 {
				t.Fatalf("%s: %d %q %v", at, status, body, err)
			}
			seen[body[:1]] = true
			if !strings.Contains(body, "from "+from.Address.String()) && !strings.Contains(body, "from ["+from.Address6.String()) {
				t.Errorf("the app did not see the client's address: %s", body)
			}
			if strings.Contains(strings.ToLower(body), "x-weft") || strings.Contains(strings.ToLower(body), "x-envoy") {
				t.Errorf("the app sees the proxy's headers: %s", body)
			}
		}
	}
	if !seen["b"] || !seen["c"] {
		t.Errorf("endpoints used: %v, want b and c", seen)
	}
}

func TestRequestOverHBONE(t *testing.T) {
	pods := labPods(t, "a", "b", "c")
	w := newWorld(t, Config{RequestLog: true})
	a, b := strictPair(w, pods)
	c := workload(pods[2], "shop", model.MTLSDisabled, nil)
	put(w, w.st.Workloads, c)
	echo(t, pods[1], 8080, "b")
	echo(t, pods[2], 8080, "c")
	loopbackService(w, "echo", endpointOf(b, 0, 8080), endpointOf(b, 1, 8080), endpointOf(c, 0, 8080), endpointOf(c, 1, 8080))
	w.envoy()
	echoesFromBoth(t, pods[0])
	w.noRejections()
	until(t, "flows of both sides and a request", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		out, in, request := false, false, false
		for _, f := range w.flows {
			both := f.Source.Addr() == pods[0].Address || f.Source.Addr() == pods[0].Address6
			switch {
			case f.Request != nil:
				request = request || f.Owner == "shop/a" && f.Request.Status == 200 && f.Request.Method == "GET" &&
					f.Request.Cluster == "service/shop/echo/15001"
			case f.Outbound:
				out = out || both && f.Owner == "shop/a" && f.Local == a.Identity && f.Peer == b.Identity && f.Destination.Port() == 8080
			default:
				in = in || both && f.Owner == "shop/b" && f.Local == b.Identity && f.Peer == a.Identity && f.Destination.Port() == 8080
			}
		}
		if !out || !in || !request {
			return fmt.Errorf("outbound %v inbound %v request %v: %s", out, in, request, describe(w.flows))
		}
		return sameStreams(w.flows)
	})
}

// sameStreams reports whether both ends of each connection by HBONE call it the same, and no two alike.
func sameStreams(flows []*Flow) error {
	type report struct {
		stream         string
		outbound, open bool
	}
	times := map[report]int{}
	for _, f := range flows {
		if f.Request == nil {
			times[report{f.Stream, f.Outbound, f.Open}]++
		}
	}
	if len(times) == 0 {
		return errors.New("no connections")
	}
	for r, n := range times {
		other := report{r.stream, !r.outbound, r.open}
		if r.stream == "" || n != 1 || times[other] != 1 {
			return fmt.Errorf("%+v: %d, of its other end %d", r, n, times[other])
		}
	}
	return nil
}

// A caller without an identity gets the plain variant: a strict endpoint is not reached in a tunnel on its behalf.
func TestCallerWithoutIdentity(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{})
	a, b := workload(pods[0], "shop", model.MTLSDisabled, nil), workload(pods[1], "shop", model.MTLSPermissive, nil)
	put(w, w.st.Workloads, a, b)
	put(w, w.st.SVIDs, w.ca.svid(b.Identity))
	echo(t, pods[1], 8080, "b")
	loopbackService(w, "echo", endpointOf(b, 0, 8080))
	w.envoy()
	status, body, err := ask(pods[0], "127.0.0.1:15001", "echo.shop", "/")
	if err != nil || status != 200 {
		t.Fatal(status, body, err)
	}
	w.noRejections()
	until(t, "the plain cluster is accepted", func() error {
		if !w.accepted(TypeCluster, "service/shop/echo/15001|plain") {
			return errors.New("not yet")
		}
		return nil
	})
	if w.accepted(TypeCluster, "service/shop/echo/15001") {
		t.Error("the caller got the cluster of callers with an identity")
	}
}

// The destination shows another identity than the endpoint's: refused by the client's side.
func TestWrongIdentityIsRefused(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{})
	_, b := strictPair(w, pods)
	echo(t, pods[1], 8080, "b")
	e := endpointOf(b, 0, 8080)
	e.Identity = identity("shop", "other")
	loopbackService(w, "echo", e)
	w.envoy()
	if status, body, err := ask(pods[0], "127.0.0.1:15001", "echo.shop", "/"); status != 503 {
		t.Fatal(status, body, err)
	}
	loopbackService(w, "echo", endpointOf(b, 0, 8080))
	until(t, "the right identity is served", func() error {
		status, body, err := ask(pods[0], "127.0.0.1:15001", "echo.shop", "/")
		if status != 200 {
			return fmt.Errorf("%d %s %w", status, body, err)
		}
		return nil
	})
}

// No SVID: nothing comes in and nothing goes out, and the Envoy starts all the same.
func TestMissingSVIDFailsClosed(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{})
	a, b := workload(pods[0], "shop", model.MTLSStrict, nil), workload(pods[1], "shop", model.MTLSStrict, nil)
	put(w, w.st.Workloads, a, b)
	echo(t, pods[1], 8080, "b")
	loopbackService(w, "echo", endpointOf(b, 0, 8080))
	w.envoy()
	if status, body, err := ask(pods[0], "127.0.0.1:15001", "echo.shop", "/"); status == 200 {
		t.Fatal(status, body, err)
	}
	put(w, w.st.SVIDs, w.ca.svid(a.Identity), w.ca.svid(b.Identity))
	until(t, "served once the SVIDs are there", func() error {
		status, body, err := ask(pods[0], "127.0.0.1:15001", "echo.shop", "/")
		if status != 200 {
			return fmt.Errorf("%d %s %w", status, body, err)
		}
		return nil
	})
}

// A rule for callers of one namespace is for nobody else, whatever headers they send.
func TestConsumerRoute(t *testing.T) {
	pods := labPods(t, "a", "b", "c")
	w := newWorld(t, Config{})
	a, b := workload(pods[0], "team", model.MTLSDisabled, nil), workload(pods[1], "other", model.MTLSDisabled, nil)
	c := workload(pods[2], "shop", model.MTLSDisabled, nil)
	put(w, w.st.Workloads, a, b)
	echo(t, pods[2], 8080, "c")
	loopbackService(w, "echo", endpointOf(c, 0, 8080))
	put(w, w.st.RouteTables, &model.RouteTable{Name: model.ServiceTable("shop", "echo", PortHTTP), VirtualHosts: []model.VirtualHost{{
		Hosts: []string{"*"}, Rules: []model.Rule{
			{CallerNamespace: "team", Status: 202},
			{Backends: []model.Backend{{Namespace: "shop", Name: "echo", Port: PortHTTP, Weight: 1}}},
		},
	}}})
	w.envoy()
	for i, want := range []int{202, 200} {
		if status, body, err := ask(pods[i], "127.0.0.1:15001", "echo.shop", "/"); status != want {
			t.Errorf("%s: %d %s %v, want %d", pods[i].Name, status, body, err, want)
		}
	}
	w.noRejections()
}

// A new certificate takes over without a failed request.
func TestRotation(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{})
	a, b := strictPair(w, pods)
	echo(t, pods[1], 8080, "b")
	loopbackService(w, "echo", endpointOf(b, 0, 8080))
	w.envoy()
	for i := range 60 {
		if i%20 == 10 {
			put(w, w.st.SVIDs, w.ca.svid(a.Identity), w.ca.svid(b.Identity))
		}
		if status, body, err := ask(pods[0], "127.0.0.1:15001", "echo.shop", "/"); status != 200 {
			t.Fatal(i, status, body, err)
		}
	}
	w.noRejections()
}

// What a client writes into a request must not steer the Envoys that it passes: neither the caller's nor that of the
// destination, whose pod belongs to somebody else.
func TestClientsDoNotSteerEnvoy(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{})
	requests := &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{{HTTP: []model.HTTPRule{{Methods: []string{"GET"}}}}}}
	a, b := workload(pods[0], "shop", model.MTLSStrict, nil), workload(pods[1], "shop", model.MTLSStrict, requests)
	put(w, w.st.Workloads, a, b)
	put(w, w.st.SVIDs, w.ca.svid(a.Identity), w.ca.svid(b.Identity))
	var hits atomic.Int64
	l, err := pods[1].Listen("tcp", netip.AddrPortFrom(pods[1].Address, 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	app := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		if r.URL.Path == "/slow" {
			select {
			case <-time.After(300 * time.Millisecond):
			case <-r.Context().Done():
			}
			return
		}
		rw.WriteHeader(503)
	})}
	go func() { _ = app.Serve(l) }()
	t.Cleanup(func() { _ = app.Close() })
	loopbackService(w, "app", endpointOf(b, 0, 8080))
	w.envoy()
	for name, test := range map[string]struct {
		path   string
		header string
		status int
	}{
		"plain":                   {"/", "x-a: b", 503},
		"retries":                 {"/", "x-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 7", 503},
		"retries by status":       {"/", "x-envoy-retry-on: retriable-status-codes\r\nx-envoy-retriable-status-codes: 503", 503},
		"a timeout":               {"/slow", "x-envoy-upstream-rq-timeout-ms: 20", 200},
		"a timeout of a try":      {"/slow", "x-envoy-upstream-rq-per-try-timeout-ms: 20\r\nx-envoy-retry-on: 5xx", 200},
		"a duration":              {"/slow", "x-envoy-upstream-stream-duration-ms: 20", 200},
		"another scope":           {"/", "x-weft-scope: 10.96.0.9:80\r\nX-Weft-Scope: 10.96.0.9:81", 503},
		"another host":            {"/", "x-envoy-original-dst-host: 127.0.0.1:15001", 503},
		"another path":            {"/", "x-envoy-original-path: /slow", 503},
		"absolute form":           {"http://127.0.0.1:15001/", "x-a: b", 503},
		"absolute form elsewhere": {"http://169.254.169.254/", "x-a: b", 503},
	} {
		hits.Store(0)
		status, body, err := ask(pods[0], "127.0.0.1:15001", "app.shop\r\n"+test.header, test.path)
		if err != nil || status != test.status {
			t.Errorf("%s: status %d, want %d: %s %v", name, status, test.status, body, err)
		}
		if n := hits.Load(); n != 1 {
			t.Errorf("%s: the app got the request %d times", name, n)
		}
	}
	w.noRejections()
}

// A pod that opens connections and says nothing on them uses up its own share of the node's Envoy, not its neighbour's.
func TestOnePodDoesNotStarveOthers(t *testing.T) {
	pods := labPods(t, "a", "b", "c")
	const most = 8
	w := newWorld(t, Config{ConnectionsPerListener: most})
	a, b, c := workload(pods[0], "shop", model.MTLSStrict, nil), workload(pods[1], "shop", model.MTLSStrict, nil), workload(pods[2], "shop", model.MTLSStrict, nil)
	put(w, w.st.Workloads, a, b, c)
	put(w, w.st.SVIDs, w.ca.svid(a.Identity), w.ca.svid(b.Identity), w.ca.svid(c.Identity))
	echo(t, pods[2], 8080, "c")
	loopbackService(w, "echo", endpointOf(c, 0, 8080))
	w.envoy()
	request := func(from int) error {
		status, body, err := ask(pods[from], "127.0.0.1:15001", "echo.shop", "/")
		if err == nil && status != 200 {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		return err
	}
	for from := range 2 {
		if err := request(from); err != nil {
			t.Fatal(err)
		}
	}
	var idle []net.Conn
	hold := func() {
		conn, err := pods[0].Dial(t.Context(), "tcp", "127.0.0.1:15001")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: ")
		idle = append(idle, conn)
	}
	until(t, "its connections are used up", func() error {
		hold() // what Envoy refused does not count
		if err := request(0); err == nil && len(idle) > 4*most {
			t.Fatalf("%d connections, and one more", len(idle))
		} else if err == nil {
			return errors.New("one more is taken")
		}
		return nil
	})
	if len(idle) < most {
		t.Errorf("%d connections are too many already", len(idle))
	}
	if err := request(1); err != nil {
		t.Errorf("the neighbour: %v", err)
	}
	for _, conn := range idle {
		_ = conn.Close()
	}
	until(t, "it is served again", func() error { return request(0) })
	w.noRejections()
}
