package xds

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// Of addresses for documentation (RFC 5737): a node that runs beside has Services at 10.96.0.0/16, and its hooks see these tests'
// connections too.
const (
	detectWeb   = "198.51.100.1:80" // a Service of a server that speaks HTTP, with a route that marks answers
	detectBytes = "198.51.100.2:80" // a Service of a server that greets, and returns what it gets
)

// TestDetection: what begins as HTTP takes the Service's routes, all else reaches a server as it was sent, and nothing hangs.
func TestDetection(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{})
	a, b := workload(pods[0], "shop", model.MTLSDisabled, nil), workload(pods[1], "shop", model.MTLSDisabled, nil)
	put(w, w.st.Workloads, a, b)
	echo(t, pods[1], 8080, "b")
	echoBytes(t, pods[1], 9000)
	detected(t, w, pods[0], "web", detectWeb, endpointOf(b, 0, 8080))
	detected(t, w, pods[0], "bytes", detectBytes, endpointOf(b, 0, 9000))
	put(w, w.st.RouteTables, &model.RouteTable{Name: model.ServiceTable("shop", "web", 80), VirtualHosts: []model.VirtualHost{{
		Hosts: []string{"*"}, Rules: []model.Rule{{
			ResponseHeaders: model.HeaderChange{Set: []model.Header{{Name: "routed", Value: "yes"}}},
			Backends:        []model.Backend{{Namespace: "shop", Name: "web", Port: 80, Weight: 1}},
		}},
	}}})
	w.envoy()
	until(t, "a route", func() error {
		status, body, err := ask(pods[0], detectWeb, "web", "/")
		if status != http.StatusOK {
			return fmt.Errorf("%d %s %w", status, body, err)
		}
		return nil
	})
	w.noRejections()
	t.Run("HTTP", func(t *testing.T) { detectRequests(t, pods[0]) })
	t.Run("bytes", func(t *testing.T) { detectOthers(t, pods[0]) })
	t.Run("ends", func(t *testing.T) { detectEnds(t, pods[0]) })
	t.Run("not handed over", func(t *testing.T) {
		for _, at := range []string{"127.0.0.1:15004", "[::1]:15004"} {
			c := dialPod(t, pods[0], at)
			if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %d bytes, %v; want the end", at, n, err)
			}
		}
	})
}

// TestDetectionOnDemand: pods have a listener for detection from the first Service on that needs it. It stays then, for
// connections that it serves.
func TestDetectionOnDemand(t *testing.T) {
	w := newWorld(t, Config{})
	put(w, w.st.Workloads, goldenPod("web", "10.1.0.1", model.MTLSDisabled, nil))
	c := w.client()
	c.subscribe(TypeListener, "*")
	name := "shop/web/out-detect"
	has := func() bool {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		return w.server.cache.stores[TypeListener].wild[name] > 0
	}
	c.drain()
	if has() {
		t.Errorf("listener %s is there without a Service that needs it", name)
	}
	service := func(detect bool) {
		put(w, w.st.Services, &model.Service{
			Namespace: "shop", Name: "s", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
			Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true, Detect: detect}},
		})
	}
	service(true)
	until(t, "the listener", func() error {
		if !has() {
			return errors.New("not yet")
		}
		return nil
	})
	c.drain()
	service(false)
	c.drain()
	if !has() {
		t.Errorf("listener %s went with the Service", name)
	}
}

// detected makes a Service whose port does not say what it speaks. Packet filters of the client's namespace do here what the
// kernel's programs do otherwise.
func detected(t *testing.T, w *world, client *lab.Pod, name, at string, e model.Endpoint) {
	t.Helper()
	to := netip.MustParseAddrPort(at)
	put(w, w.st.Services, &model.Service{
		Namespace: "shop", Name: name, Addresses: []netip.Addr{to.Addr()},
		Ports: []model.ServicePort{{Port: to.Port(), Protocol: model.TCP, L7: true, Detect: true}},
	})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/" + name, Port: to.Port(), Protocol: model.TCP, Backends: []model.Endpoint{e}})
	podRun(t, client, "ip", "route", "add", to.Addr().String(), "dev", "lo", "src", client.Address.String())
	for _, rule := range []string{
		fmt.Sprintf("-m mark --mark %d -j DNAT --to-destination %s", model.BytesMark, e.Address),
		fmt.Sprintf("-j REDIRECT --to-ports %d", PortDetect),
	} {
		podRun(t, client, "iptables", append(strings.Fields("-w -t nat -A OUTPUT -p tcp -d "+to.Addr().String()), strings.Fields(rule)...)...)
	}
}

// detectRequests sends requests. If the first line does not come in time the connection is carried as bytes: the answer is the
// server's, without what the route adds.
func detectRequests(t *testing.T, client *lab.Pod) {
	t.Parallel()
	const slow = 2 * 500 * time.Millisecond
	get := "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"
	for _, test := range []struct {
		name   string
		pause  time.Duration // before each part
		parts  []string
		routed bool
	}{
		{"HTTP/1.1", 0, []string{get}, true},
		{"HTTP/1.0 without Host", 0, []string{"GET / HTTP/1.0\r\n\r\n"}, true},
		{"a byte at a time", 0, strings.Split(get, ""), true},
		{"a long path", 0, []string{"GET /" + strings.Repeat("a", 20_000) + " HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"}, true},
		{"a split request line", 50 * time.Millisecond, []string{"GET / HT", "TP/1.1\r", "\nHost: web\r\nConnection: close\r\n\r\n"}, true},
		{"a registered method", 0, []string{strings.Replace(get, "GET", "PROPFIND", 1)}, true},
		{"any other method", 0, []string{strings.Replace(get, "GET", "LIST", 1)}, true},
		{"a method with the beginning of another", 0, []string{strings.Replace(get, "GET", "GETS", 1)}, true},
		{"silence before the request", slow, []string{get}, false},
		{"silence within the request line", slow, []string{"GET / HT", "TP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := dialPod(t, client, detectWeb)
			for _, p := range test.parts {
				time.Sleep(test.pause)
				if _, err := io.WriteString(c, p); err != nil {
					t.Fatal(err)
				}
			}
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, _ := io.ReadAll(r.Body)
			if r.StatusCode != http.StatusOK || (r.Header.Get("routed") == "yes") != test.routed {
				t.Errorf("status %d, %v: %.200s", r.StatusCode, r.Header, body)
			}
		})
	}
	t.Run("pieces", func(t *testing.T) { detectPieces(t, client, get) })
	t.Run("HTTP/2", func(t *testing.T) {
		t.Parallel()
		tr := &http.Transport{DialContext: client.Dial, Protocols: new(http.Protocols)}
		tr.Protocols.SetUnencryptedHTTP2(true)
		defer tr.CloseIdleConnections()
		r, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("http://" + detectWeb)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK || r.ProtoMajor != 2 || r.Header.Get("routed") != "yes" {
			t.Errorf("%s %s %v", r.Proto, r.Status, r.Header)
		}
	})
}

// detectPieces sends many requests in pieces that Envoy sees in ever other ways.
func detectPieces(t *testing.T, client *lab.Pod, request string) {
	t.Parallel()
	for range 60 {
		c := dialPod(t, client, detectWeb)
		for _, b := range strings.Split(request, "") {
			if _, err := io.WriteString(c, b); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Microsecond)
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Body.Close(); err != nil || r.Header.Get("routed") != "yes" {
			t.Errorf("status %d, %v: not taken for HTTP; %v", r.StatusCode, r.Header, err)
		}
	}
}

// detectOthers speaks other protocols with a server that greets first.
func detectOthers(t *testing.T, client *lab.Pod) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		first []byte // what the client sends before it reads
	}{
		{"the server speaks first", nil},
		{"TLS", clientHello(t)},
		{"bytes", []byte("\x00\x01\x02")},
		{"text", []byte("hello\r\n")},
		{"memcached, get", []byte("get key\r\n")},
		{"memcached, set", []byte("set key 0 0 3\r\nabc\r\n")},
		{"Redis", []byte("*1\r\n$4\r\nPING\r\n")},
		{"Redis, inline", []byte("GET key\r\n")},
		{"Redis, inline, no key", []byte("PING\r\n")},
		{"SMTP", []byte("EHLO a.example\r\n")},
		{"NATS", []byte("CONNECT {\"verbose\":false}\r\nPING\r\n")},
		{"SIP", []byte("OPTIONS sip:a SIP/2.0\r\n\r\n")},
		{"RTSP", []byte("OPTIONS * RTSP/1.0\r\n\r\n")},
		{"SSH", []byte("SSH-2.0-client\r\n")},
		{"the beginning of a method", []byte("GE")},
		{"the beginning of the preface of HTTP/2", []byte("PRI * HT")},
		{"capitals without an end", bytes.Repeat([]byte("A"), 60_000)},
		{"a line of a request without an end", append([]byte("GET /"), bytes.Repeat([]byte("a"), 60_000)...)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := dialPod(t, client, detectBytes)
			if _, err := c.Write(test.first); err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(c)
			who, err := in.ReadString('\n')
			if err != nil || strings.TrimSpace(who) != client.Address.String() {
				t.Fatalf("greeted as %q, %v", who, err)
			}
			later := []byte("and more")
			if _, err := c.Write(later); err != nil {
				t.Fatal(err)
			}
			want := append(bytes.Clone(test.first), later...)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(in, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%.100q came back, %v", got, err)
			}
		})
	}
}

// detectEnds shows what Envoy does not carry (docs/design/envoy.md): a client that ends its side before its first bytes were looked
// at, and a line of more than 64 KiB that may be the first of a request. The connection ends; nothing hangs.
func detectEnds(t *testing.T, client *lab.Pod) {
	for _, test := range []struct {
		name  string
		first []byte
		ends  bool
	}{
		{"nothing", nil, true},
		{"a part of a line", []byte("GET"), true},
		{"a line without an end", append([]byte("GET /"), bytes.Repeat([]byte("a"), 100_000)...), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := dialPod(t, client, detectBytes)
			if _, err := c.Write(test.first); err != nil {
				t.Fatal(err)
			}
			if test.ends {
				if err := c.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := io.ReadAll(c); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%q, %v; want the end", got, err)
			}
		})
	}
}

// dialPod connects from a pod, with a deadline for all that follows.
func dialPod(t *testing.T, from *lab.Pod, at string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// clientHello is the first flight of TLS.
func clientHello(t *testing.T) []byte {
	t.Helper()
	var b lockedBuffer
	ours, theirs := net.Pipe()
	go func() { _, _ = io.Copy(&b, theirs) }()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := tls.Client(ours, &tls.Config{ServerName: "web"}).HandshakeContext(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	_ = ours.Close()
	return []byte(b.String())
}
