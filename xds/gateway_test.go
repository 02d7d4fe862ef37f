package xds

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// backend is a service with one plain endpoint on the loopback that tells what it saw.
func backend(t *testing.T, w *world, name string) *backendServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backendServer{}
	s := &http.Server{Protocols: bothProtocols(), ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b.hits.Add(1)
		if r.Header.Get("x-break") != "" {
			panic(http.ErrAbortHandler) // closes the connection without an answer
		}
		if d, err := time.ParseDuration(r.Header.Get("x-sleep")); err == nil {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
		}
		rw.Header().Set("x-from", "backend")
		if n := b.fail.Add(-1); n >= 0 {
			rw.WriteHeader(503)
			return
		}
		fmt.Fprintf(rw, "%s %s %s host=%s %s\n", name, r.Method, r.URL, r.Host, r.Proto)
		_ = r.Header.Write(rw)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: name, Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/" + name, Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{
		{Address: netip.MustParseAddrPort(l.Addr().String())},
	}})
	return b
}

type backendServer struct{ hits, fail atomic.Int64 }

func to(name string, weight uint32) model.Backend {
	return model.Backend{Namespace: "shop", Name: name, Port: 80, Weight: weight}
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// gatewayWith serves rules for all hosts on a Gateway's HTTP port.
func gatewayWith(w *world, port uint16, rules ...model.Rule) {
	table := model.GatewayTable("shop", "gw", port, "")
	for i := range rules {
		rules[i].Route = model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: "shop", Name: "r"}
		rules[i].Index = i
	}
	put(w, w.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: rules}}})
	put(w, w.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: []model.GatewayPort{{Port: port, Listeners: []model.GatewayListener{{Name: "http", RouteTable: table}}}},
	})
}

type answer struct {
	status int
	body   string
	header http.Header
}

func send(t *testing.T, port uint16, method, host, path string, header map[string]string) answer {
	t.Helper()
	a, err := trySend(port, method, host, path, header)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func trySend(port uint16, method, host, path string, header map[string]string) (answer, error) {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", method, path, host)
	for k, v := range header {
		fmt.Fprintf(&b, "%s: %s\r\n", k, v)
	}
	b.WriteString("\r\n")
	if _, err := c.Write(b.Bytes()); err != nil {
		return answer{}, err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return answer{}, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return answer{r.StatusCode, string(body), r.Header}, err
}

func ptr[T any](v T) *T { return &v }

func path(t model.MatchType, v string) model.Match {
	return model.Match{Path: model.PathMatch{Type: t, Value: v}}
}

func TestRules(t *testing.T) {
	w := newWorld(t, Config{})
	v1, v2 := backend(t, w, "v1"), backend(t, w, "v2")
	port := freePort(t)
	prefix := func(from, to string) model.Rule {
		m := path(model.MatchPrefix, from)
		return model.Rule{Match: m, Rewrite: &model.Rewrite{Path: &model.PathChange{Prefix: ptr(to)}}, Backends: []model.Backend{{Namespace: "shop", Name: "v1", Port: 80, Weight: 1}}}
	}
	one := []model.Backend{to("v1", 1)}
	gatewayWith(w, port,
		model.Rule{Match: path(model.MatchExact, "/exact"), Backends: one},
		model.Rule{Match: path(model.MatchRegex, "/re/[0-9]+"), Backends: one},
		model.Rule{Match: path(model.MatchRegex, "/bad/["), Backends: one},
		model.Rule{Match: model.Match{Path: model.PathMatch{Type: model.MatchPrefix, Value: "/match"}, Method: "PUT"}, Status: 201},
		model.Rule{Match: model.Match{Path: model.PathMatch{Type: model.MatchPrefix, Value: "/match"},
			Headers: []model.ValueMatch{{Name: "x-a", Type: model.MatchExact, Value: "1"}, {Name: "x-b", Type: model.MatchRegex, Value: "b+"}}}, Status: 202},
		model.Rule{Match: model.Match{Path: model.PathMatch{Type: model.MatchPrefix, Value: "/match"},
			Query: []model.ValueMatch{{Name: "q", Type: model.MatchExact, Value: "x.y z"}}}, Status: 203},
		model.Rule{Match: model.Match{Path: model.PathMatch{Type: model.MatchPrefix, Value: "/match"}, GRPC: true}, Status: 204},
		model.Rule{Match: model.Match{Path: model.PathMatch{Type: model.MatchPrefix, Value: "/match"}}, CallerNamespace: "x", Status: 205},
		prefix("/p1", "/xyz"), prefix("/p2", "/xyz/"), prefix("/p3/", "/xyz"), prefix("/p4", ""), prefix("/p5", "/"),
		model.Rule{Match: path(model.MatchPrefix, "/full"), Rewrite: &model.Rewrite{Host: "new.host", Path: &model.PathChange{Full: ptr("/100%25done")}}, Backends: one},
		model.Rule{Match: path(model.MatchPrefix, "/headers"), Backends: one,
			RequestHeaders: model.HeaderChange{
				Set:    []model.Header{{Name: "x-set", Value: "%REQ(:path)% 50%"}, {Name: "x-gone", Value: "no"}},
				Add:    []model.Header{{Name: "x-add", Value: "more"}},
				Remove: []string{"x-del", "x-gone"},
			},
			ResponseHeaders: model.HeaderChange{Set: []model.Header{{Name: "x-from", Value: "mesh"}}}},
		model.Rule{Match: path(model.MatchPrefix, "/newline"), Backends: one,
			RequestHeaders: model.HeaderChange{Set: []model.Header{{Name: "x-set", Value: "a\r\nb: c"}}}},
		model.Rule{Match: path(model.MatchPrefix, "/hosthdr"), Backends: one,
			RequestHeaders: model.HeaderChange{Set: []model.Header{{Name: "Host", Value: "x"}}}},
		model.Rule{Match: path(model.MatchPrefix, "/backendheaders"), Backends: []model.Backend{{
			Namespace: "shop", Name: "v1", Port: 80, Weight: 1, RequestHeaders: model.HeaderChange{Set: []model.Header{{Name: "x-b", Value: "v1"}}},
		}}},
		model.Rule{Match: path(model.MatchPrefix, "/zero"), Backends: []model.Backend{to("v1", 0), to("v2", 1)}},
		model.Rule{Match: path(model.MatchPrefix, "/allzero"), Backends: []model.Backend{to("v1", 0)}},
		model.Rule{Match: path(model.MatchPrefix, "/invalid"), Backends: []model.Backend{{Namespace: "x", Name: "x", Port: 1, Weight: 1, Invalid: true}}},
		model.Rule{Match: path(model.MatchPrefix, "/half"), Backends: []model.Backend{to("v1", 1), {Namespace: "x", Name: "x", Port: 1, Weight: 1, Invalid: true}}},
		model.Rule{Match: path(model.MatchPrefix, "/split"), Backends: []model.Backend{to("v1", 9), to("v2", 1)}},
		model.Rule{Match: path(model.MatchPrefix, "/each"), Rewrite: &model.Rewrite{Host: "all.host"}, Backends: []model.Backend{
			rewritten(to("v1", 1), &model.Rewrite{Path: &model.PathChange{Prefix: ptr("/one")}}),
			{Namespace: "x", Name: "x", Port: 1, Weight: 2, Invalid: true},
			rewritten(to("v2", 1), &model.Rewrite{Host: "two.host", Path: &model.PathChange{Full: ptr("/two")}}),
		}},
		model.Rule{Match: path(model.MatchPrefix, "/none"), Backends: []model.Backend{to("missing", 1)}},
		model.Rule{Match: path(model.MatchPrefix, "/mirror"), Backends: one, Mirrors: []model.Mirror{{Backend: to("v2", 1), Numerator: 100, Denominator: 100}}},
		model.Rule{Match: path(model.MatchPrefix, "/timeout"), Backends: one, Timeout: ptr(100 * time.Millisecond)},
		model.Rule{Match: path(model.MatchPrefix, "/trytimeout"), Backends: one, BackendTimeout: ptr(100 * time.Millisecond)},
		model.Rule{Match: path(model.MatchPrefix, "/retry"), Backends: one, Retry: &model.Retry{Codes: []int{503}, Attempts: 2, Backoff: time.Millisecond}},
		model.Rule{Match: path(model.MatchPrefix, "/cors"), Backends: one, CORS: &model.CORS{
			AllowOrigins: []string{"https://*.example.com"}, AllowMethods: []string{"GET", "PUT"}, AllowHeaders: []string{"x-h"}, MaxAge: time.Minute, AllowCredentials: true}},
		model.Rule{Match: path(model.MatchPrefix, "/anycors"), Backends: one, CORS: &model.CORS{
			AllowOrigins: []string{"*"}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}, ExposeHeaders: []string{"*"}, AllowCredentials: true}},
		model.Rule{Match: path(model.MatchPrefix, "/"+strings.Repeat("long/", 200_000)), Backends: one},
	)
	e := w.envoy()
	e.until("listener", func() error { _, err := trySend(port, "GET", "x", "/exact", nil); return err })
	w.noRejections()

	preflight := map[string]string{
		"Origin": "https://b.example.com:8443", "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-1, x-2",
	}
	for _, test := range []struct {
		method, path string
		header       map[string]string
		status       int
		want         string // in the body or the headers
	}{
		{"GET", "/exact?a=b", nil, 200, "v1 GET /exact?a=b"},
		{"GET", "/exact/", nil, 404, ""},
		{"GET", "/x/../exact", nil, 200, "v1 GET /exact "},
		{"GET", "/re/12", nil, 200, "v1 GET /re/12"},
		{"GET", "/re/12x", nil, 404, ""},
		{"GET", "/bad/[", nil, 404, ""},
		{"PUT", "/match", nil, 201, ""},
		{"GET", "/match", map[string]string{"x-a": "1", "x-b": "bb"}, 202, ""},
		{"GET", "/match", map[string]string{"x-a": "1", "x-b": "bbc"}, 404, ""},
		{"GET", "/match?q=x.y%20z", nil, 203, ""},
		{"GET", "/match", map[string]string{"content-type": "application/grpc"}, 200, ""}, // Envoy says it in grpc-status
		{"GET", "/match?q=x.y+z", nil, 203, ""},
		{"GET", "/match?q=x-y%20z", nil, 404, ""}, // a dot is a dot
		{"GET", "/matches", nil, 404, ""},
		{"GET", "/p1/bar?q=1", nil, 200, "GET /xyz/bar?q=1 "},
		{"GET", "/p1", nil, 200, "GET /xyz "},
		{"GET", "/p1/", nil, 200, "GET /xyz/ "},
		{"GET", "/p1x", nil, 404, ""},
		{"GET", "/p2/bar", nil, 200, "GET /xyz/bar "},
		{"GET", "/p3/bar", nil, 200, "GET /xyz/bar "},
		{"GET", "/p3", nil, 200, "GET /xyz "},
		{"GET", "/p4/bar", nil, 200, "GET /bar "},
		{"GET", "/p4/", nil, 200, "GET / "},
		{"GET", "/p4", nil, 200, "GET / "},
		{"GET", "/p5/bar?x=y", nil, 200, "GET /bar?x=y "},
		{"GET", "/p5", nil, 200, "GET / "},
		{"GET", "/full/x?q=1", nil, 200, "GET /100%25done?q=1 host=new.host"},
		{"GET", "/headers", map[string]string{"x-del": "1", "x-add": "some", "x-weft-scope": "10.0.0.1:80"}, 200, "X-Set: %REQ(:path)% 50%"},
		{"GET", "/headers", map[string]string{"x-add": "some"}, 200, "X-Add: some\nX-Add: more"},
		{"GET", "/headers", nil, 200, "X-From: mesh"},
		{"GET", "/newline", nil, 500, ""},
		{"GET", "/hosthdr", nil, 500, ""},
		{"GET", "/backendheaders", nil, 200, "X-B: v1"},
		{"GET", "/zero", nil, 200, "v2 GET"},
		{"GET", "/allzero", nil, 500, ""},
		{"GET", "/invalid", nil, 500, ""},
		{"GET", "/none", nil, 503, ""},
		{"GET", "/timeout", map[string]string{"x-sleep": "2s"}, 504, ""},
		{"GET", "/trytimeout", map[string]string{"x-sleep": "2s"}, 504, ""},
		{"POST", "/exact", nil, 200, "v1 POST /exact"},
		// What Envoy does is for routes to say, not for whoever sends a request.
		{"GET", "/exact", map[string]string{"x-envoy-upstream-rq-timeout-ms": "50", "x-sleep": "500ms"}, 200, ""},
		{"GET", "/exact", map[string]string{"x-envoy-original-path": "/x", "x-envoy-internal": "true"}, 200, "v1 GET /exact "},
		{"GET", "/exact", nil, 200, "X-Forwarded-For: "},
		{"OPTIONS", "/cors", map[string]string{"Origin": "https://a.example.com", "Access-Control-Request-Method": "PUT"}, 200, "Access-Control-Allow-Origin: https://a.example.com"},
		{"OPTIONS", "/cors", map[string]string{"Origin": "https://a.example.com", "Access-Control-Request-Method": "PUT"}, 200, "Access-Control-Max-Age: 60"},
		{"GET", "/cors", map[string]string{"Origin": "https://a.example.com"}, 200, "Access-Control-Allow-Origin: https://a.example.com"},
		// With credentials a browser takes "*" for a name: what it asked for is answered instead.
		{"OPTIONS", "/anycors", preflight, 200, "Access-Control-Allow-Origin: https://b.example.com:8443"},
		{"OPTIONS", "/anycors", preflight, 200, "Access-Control-Allow-Methods: PUT"},
		{"OPTIONS", "/anycors", preflight, 200, "Access-Control-Allow-Headers: x-1, x-2"},
		{"OPTIONS", "/anycors", preflight, 200, "Access-Control-Allow-Credentials: true"},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			a := send(t, port, test.method, "shop.example", test.path, test.header)
			var all bytes.Buffer
			_ = a.header.Write(&all)
			text := strings.ReplaceAll(a.body+all.String(), "\r\n", "\n")
			if a.status != test.status || !strings.Contains(text, test.want) {
				t.Errorf("status %d, want %d with %q:\n%s", a.status, test.status, test.want, text)
			}
			for _, not := range []string{"X-Weft-Scope", "X-Del", "X-Gone", "X-Envoy"} {
				if strings.Contains(text, not) {
					t.Errorf("%s got through:\n%s", not, text)
				}
			}
		})
	}
	t.Run("origin that is not allowed", func(t *testing.T) {
		preflight := map[string]string{"Origin": "https://aXexample.com", "Access-Control-Request-Method": "PUT"}
		a := send(t, port, "OPTIONS", "x", "/cors", preflight)
		if a.status != 200 || a.body != "" {
			t.Errorf("a preflight of another origin is answered with %d, %q", a.status, a.body)
		}
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("a preflight of another origin is answered with %s", name)
			}
		}
		if a := send(t, port, "GET", "x", "/cors", map[string]string{"Origin": "https://aXexample.com"}); a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Error(a.header)
		}
	})
	// HTTPCORSFilter of the Gateway API: no wildcard and no empty list goes with credentials.
	t.Run("wildcards with credentials", func(t *testing.T) {
		origin := map[string]string{"Origin": "https://b.example.com"}
		if a := send(t, port, "GET", "x", "/anycors", origin); a.header.Get("Access-Control-Allow-Origin") == "" || a.header.Values("Access-Control-Expose-Headers") != nil {
			t.Errorf("a request is answered with %v", a.header)
		}
		origin["Access-Control-Request-Method"] = "GET"
		a := send(t, port, "OPTIONS", "x", "/anycors", origin)
		if a.header.Get("Access-Control-Allow-Methods") != "GET" || a.header.Values("Access-Control-Allow-Headers") != nil || a.header.Values("Access-Control-Expose-Headers") != nil {
			t.Errorf("a preflight that asks for no header is answered with %v", a.header)
		}
	})
	t.Run("mirror", func(t *testing.T) {
		before := v2.hits.Load()
		for range 5 {
			if a := send(t, port, "GET", "x", "/mirror", nil); !strings.HasPrefix(a.body, "v1 ") {
				t.Fatal(a)
			}
		}
		until(t, "copies", func() error {
			if n := v2.hits.Load() - before; n != 5 {
				return fmt.Errorf("%d copies of 5 requests", n)
			}
			return nil
		})
	})
	t.Run("retry", func(t *testing.T) {
		v1.fail.Store(2)
		if a := send(t, port, "POST", "x", "/retry", nil); a.status != 200 {
			t.Errorf("status %d after two failures and two retries", a.status)
		}
		v1.fail.Store(3)
		if a := send(t, port, "POST", "x", "/retry", nil); a.status != 503 {
			t.Errorf("status %d after three failures and two retries", a.status)
		}
		v1.fail.Store(0)
	})
	t.Run("shares", func(t *testing.T) {
		got := map[string]int{}
		for range 400 {
			a := send(t, port, "GET", "x", "/half", nil)
			got[fmt.Sprint("half ", a.status)]++
			a = send(t, port, "GET", "x", "/split", nil)
			got["split "+a.body[:2]]++
			a = send(t, port, "GET", "x", "/each/more", nil)
			line, _, _ := strings.Cut(a.body, " HTTP")
			got[fmt.Sprintf("each %d %s", a.status, line)]++
		}
		// 400 trials: 5 standard deviations are 50 and 30.
		if n := got["half 500"]; n < 150 || n > 250 || got["half 200"] != 400-n {
			t.Errorf("half invalid: %v", got)
		}
		if n := got["split v2"]; n < 10 || n > 70 || got["split v1"] != 400-n {
			t.Errorf("9 to 1: %v", got)
		}
		invalid, one, two := got["each 500 "], got["each 200 v1 GET /one/more host=all.host"], got["each 200 v2 GET /two host=two.host"]
		if invalid < 150 || invalid > 250 || one < 55 || one > 145 || invalid+one+two != 400 {
			t.Errorf("half invalid, each quarter rewritten as its backend says: %v", got)
		}
	})
}

func TestRedirects(t *testing.T) {
	w := newWorld(t, Config{})
	port := freePort(t)
	full := &model.PathChange{Full: ptr("/new")}
	redirectTo := func(p string, r model.Redirect) model.Rule {
		return model.Rule{Match: path(model.MatchPrefix, p), Redirect: &r}
	}
	gatewayWith(w, port,
		redirectTo("/scheme", model.Redirect{Scheme: "https", Status: 301}),
		redirectTo("/host", model.Redirect{Host: "other.example", Status: 302}),
		redirectTo("/schemehost", model.Redirect{Scheme: "https", Host: "other.example", Status: 308}),
		redirectTo("/port", model.Redirect{Port: 8443, Scheme: "https", Status: 302}),
		redirectTo("/own", model.Redirect{Port: 80, Host: "other.example", Status: 302}),
		redirectTo("/full", model.Redirect{Scheme: "https", Path: full, Status: 302}),
		redirectTo("/prefix", model.Redirect{Scheme: "https", Path: &model.PathChange{Prefix: ptr("/to")}, Status: 302}),
		redirectTo("/drop", model.Redirect{Scheme: "https", Path: &model.PathChange{Prefix: ptr("/")}, Status: 302}),
	)
	e := w.envoy()
	e.until("listener", func() error { _, err := trySend(port, "GET", "x", "/", nil); return err })
	w.noRejections()
	for _, test := range []struct {
		host, path string
		status     int
		location   string
	}{
		{"a.example", "/scheme/x?q=1", 301, "https://a.example/scheme/x?q=1"},
		{fmt.Sprintf("a.example:%d", port), "/scheme", 301, "https://a.example:443/scheme"},
		{"a.example", "/host", 302, fmt.Sprintf("http://other.example:%d/host", port)},
		{"a.example", "/schemehost", 308, "https://other.example/schemehost"},
		{"a.example:8080", "/port", 302, "https://a.example:8443/port"},
		{"a.example", "/own", 302, "http://other.example/own"},
		{"a.example", "/full/x?q=1", 302, "https://a.example/new?q=1"},
		{"a.example", "/prefix/x", 302, "https://a.example/to/x"},
		{"a.example", "/drop/x", 302, "https://a.example/x"},
		{"a.example", "/drop", 302, "https://a.example/"},
	} {
		if a := send(t, port, "GET", test.host, test.path, nil); a.status != test.status || a.header.Get("Location") != test.location {
			t.Errorf("%s%s: %d %s, want %d %s", test.host, test.path, a.status, a.header.Get("Location"), test.status, test.location)
		}
	}
}

// Hosts and ports of requests choose the virtual host; certificates the listener.
func TestGatewayHTTPS(t *testing.T) {
	w := newWorld(t, Config{})
	backend(t, w, "v1")
	port := freePort(t)
	g := &model.Gateway{
		Namespace: "shop", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), netip.MustParseAddr("203.0.113.9")},
		Ports: []model.GatewayPort{{Port: port, TLS: true}},
	}
	for i, host := range []string{"a.example", "*.wild.example", ""} {
		name := fmt.Sprint("l", i)
		table := model.GatewayTable("shop", "gw", port, name)
		chain, key := w.ca.issue("", "host"+fmt.Sprint(i))
		put(w, w.st.Certificates, &model.Certificate{Namespace: "shop", Name: name, ChainPEM: chain, KeyPEM: key})
		put(w, w.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{
			Backends:       []model.Backend{to("v1", 1)},
			RequestHeaders: model.HeaderChange{Set: []model.Header{{Name: "x-listener", Value: name}}},
		}}}}})
		g.Ports[0].Listeners = append(g.Ports[0].Listeners, model.GatewayListener{
			Name: name, Hostname: host, RouteTable: table, Certificates: []string{"shop/" + name},
		})
	}
	put(w, w.st.Gateways, g)
	e := w.envoy()
	pool := x509.NewCertPool()
	pool.AddCert(w.ca.cert)
	for _, test := range []struct{ sni, cert, listener string }{
		{"a.example", "host0", "L0"}, {"x.wild.example", "host1", "L1"}, {"b.example", "host2", "L2"},
	} {
		for _, h2 := range []bool{false, true} {
			for _, ip := range []string{"127.0.0.1", "[::1]"} {
				tr := &http.Transport{
					DisableKeepAlives: true, ForceAttemptHTTP2: h2,
					TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: test.sni, InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
						return s.PeerCertificates[0].VerifyHostname(test.cert)
					}},
					DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
						return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", ip, port))
					},
				}
				e.until(test.sni, func() error {
					r, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Get(fmt.Sprintf("https://%s:%d/x", test.sni, port))
					if err != nil {
						return err
					}
					defer r.Body.Close()
					b, _ := io.ReadAll(r.Body)
					if !strings.Contains(strings.ToUpper(string(b)), "X-LISTENER: "+test.listener) || !strings.Contains(string(b), "HTTP/1.1") {
						return fmt.Errorf("%d %s", r.StatusCode, b)
					}
					return nil
				})
			}
		}
	}
	w.noRejections()
}
