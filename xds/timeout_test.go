package xds

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// steer hands connections in the clear to a port of a pod to Envoy, as the kernel does where a policy selects the pod.
func steer(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		podRun(t, p, program, "-w", "-t", "nat", "-A", "PREROUTING", "!", "-i", "lo", "-p", "tcp", "--dport", strconv.Itoa(int(port)),
			"-j", "REDIRECT", "--to-ports", strconv.Itoa(PortInbound))
	}
}

// served is a mesh with one listener of each kind: pod a calls pod b, whose policy looks at the requests to 8080, and
// Gateways lead to the same.
type served struct {
	*world
	a, b        *lab.Pod
	others      []*lab.Pod // not known to the mesh yet
	wa, wb      *model.Workload
	http, https uint16                               // ports of the Gateway
	ways        map[string]func(*testing.T) net.Conn // to listeners that read requests; nothing was sent on the connection
}

func newServed(t *testing.T, limits timeouts, others ...string) *served {
	return newServedWith(t, Config{testTimeouts: &limits}, others...)
}

func newServedWith(t *testing.T, cfg Config, others ...string) *served {
	pods := labPods(t, append([]string{"a", "b"}, others...)...)
	m := &served{world: newWorld(t, cfg), a: pods[0], b: pods[1], others: pods[2:]}
	m.wa = workload(m.a, "shop", model.MTLSPermissive, nil)
	m.wb = workload(m.b, "shop", model.MTLSPermissive, &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{
		{Ports: []uint16{8080}, HTTP: []model.HTTPRule{{Methods: []string{"GET", "POST"}}}}, {Ports: []uint16{9000}},
	}})
	put(m.world, m.st.Workloads, m.wa, m.wb)
	put(m.world, m.st.SVIDs, m.ca.svid(m.wa.Identity), m.ca.svid(m.wb.Identity))
	loopbackService(m.world, "app", endpointOf(m.wb, 0, 8080))
	steer(t, m.b, 8080)
	m.http, m.https = freePort(t), freePort(t)
	table := model.GatewayTable("shop", "gw", m.http, "")
	tableTLS := model.GatewayTable("shop", "gw", m.https, "l")
	for _, name := range []string{table, tableTLS} {
		put(m.world, m.st.RouteTables, &model.RouteTable{Name: name, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{
			{Backends: []model.Backend{{Namespace: "shop", Name: "app", Port: PortHTTP, Weight: 1}}},
		}}}})
	}
	chain, key := m.ca.issue("", "gw")
	put(m.world, m.st.Certificates, &model.Certificate{Namespace: "shop", Name: "tls", ChainPEM: chain, KeyPEM: key})
	put(m.world, m.st.Gateways, &model.Gateway{
		Namespace: "shop", Name: "gw", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Ports: []model.GatewayPort{
			{Port: m.http, Listeners: []model.GatewayListener{{Name: "h", RouteTable: table}}},
			{Port: m.https, TLS: true, Listeners: []model.GatewayListener{{Name: "l", RouteTable: tableTLS, Certificates: []string{"shop/tls"}}}},
		},
	})
	m.ways = m.allWays()
	m.envoy()
	m.noRejections()
	return m
}

func (m *served) allWays() map[string]func(t *testing.T) net.Conn {
	dial := func(p *lab.Pod, at string) func(*testing.T) net.Conn {
		return func(t *testing.T) net.Conn {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var c net.Conn
			var err error
			if p == nil {
				c, err = (&net.Dialer{}).DialContext(ctx, "tcp", at)
			} else {
				c, err = p.Dial(ctx, "tcp", at)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			_ = c.SetDeadline(time.Now().Add(15 * time.Second))
			return c
		}
	}
	overTLS := func(raw func(*testing.T) net.Conn, cfg *tls.Config) func(*testing.T) net.Conn {
		return func(t *testing.T) net.Conn {
			t.Helper()
			c := tls.Client(raw(t), cfg)
			if err := c.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			return c
		}
	}
	to := netip.AddrPortFrom(m.b.Address, 8080).String()
	https := dial(nil, fmt.Sprint("127.0.0.1:", m.https))
	hbone := dial(m.a, netip.AddrPortFrom(m.b.Address, PortHBONE).String())
	return map[string]func(*testing.T) net.Conn{
		"a pod's requests":            dial(m.a, "127.0.0.1:15001"),
		"requests in the clear":       dial(m.a, to),
		"a Gateway's HTTP port":       dial(nil, fmt.Sprint("127.0.0.1:", m.http)),
		"a Gateway's HTTPS port":      overTLS(https, &tls.Config{InsecureSkipVerify: true}),
		"a Gateway's port, no TLS":    https,
		"tunnels":                     overTLS(hbone, m.ca.tlsConfig(m.wa.Identity)),
		"the port of tunnels, no TLS": hbone,
	}
}

// closed reads until the other end closes or resets the connection.
func closed(c io.Reader) error {
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the connection is still held")
	}
	return nil
}

// A client that does not get on with a handshake or a request's headers holds a connection for a bounded time, whichever
// listener it talks to.
func TestSlowClientsAreLetGo(t *testing.T) {
	m := newServed(t, timeouts{handshake: time.Second, headers: time.Second, agent: time.Minute, idle: time.Hour, idleTunnels: time.Hour, idleClients: time.Hour})
	nothing := func(*testing.T, net.Conn) {}
	half := func(_ *testing.T, c net.Conn) {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: app\r\nX-Slow: ")
	}
	for way, first := range map[string]func(*testing.T, net.Conn){
		"a pod's requests": half, "requests in the clear": half, "a Gateway's HTTP port": half, "a Gateway's HTTPS port": half,
		"a Gateway's port, no TLS": nothing, "the port of tunnels, no TLS": nothing,
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			c := m.ways[way](t)
			first(t, c)
			if err := closed(c); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("nothing to a Gateway's HTTP port", func(t *testing.T) {
		t.Parallel()
		if err := closed(m.ways["a Gateway's HTTP port"](t)); err != nil {
			t.Error(err)
		}
	})
	t.Run("half a handshake with a Gateway", func(t *testing.T) {
		t.Parallel()
		c := m.ways["a Gateway's port, no TLS"](t)
		_, _ = c.Write([]byte{0x16, 3, 1, 2, 0, 1})
		if err := closed(c); err != nil {
			t.Error(err)
		}
	})
	for _, way := range []string{"a pod's requests", "requests in the clear", "a Gateway's HTTP port", "tunnels"} {
		t.Run("HTTP/2 headers without an end/"+way, func(t *testing.T) {
			t.Parallel()
			c := m.ways[way](t)
			_, _ = io.WriteString(c, http2.ClientPreface)
			f := http2.NewFramer(c, c)
			_ = f.WriteSettings()
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}}) // :method GET
			for {
				frame, err := f.ReadFrame()
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal("the stream is still held")
				}
				if _, ok := frame.(*http2.RSTStreamFrame); ok || err != nil {
					return // the connection is idle then
				}
			}
		})
	}
	t.Run("a request in a tunnel", func(t *testing.T) {
		t.Parallel()
		c, status, err := connectOver(t, m.a, m.ca.tlsConfig(m.wa.Identity), m.b.Address, netip.AddrPortFrom(m.b.Address, 8080).String())
		if err != nil || status != 200 {
			t.Fatal(status, err)
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: app\r\nX-Slow: ")
		if err := closed(c); err != nil {
			t.Error(err)
		}
	})
}

// A connection on which no request comes is closed after a while, before the first request as after it.
func TestIdleClientsAreLetGo(t *testing.T) {
	m := newServed(t, timeouts{handshake: time.Hour, headers: time.Hour, agent: time.Minute, idle: time.Second, idleTunnels: time.Second, idleClients: time.Second})
	for _, way := range []string{"a pod's requests", "requests in the clear", "a Gateway's HTTP port", "a Gateway's HTTPS port", "tunnels"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			if err := closed(m.ways[way](t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// What takes its time after its beginning is left alone: the timeouts here are shorter than every pause.
func TestSlowExchangesAreServed(t *testing.T) {
	const pause = time.Second
	short := pause / 4
	m := newServed(t, timeouts{handshake: 10 * time.Second, headers: 10 * time.Second, agent: 2 * short, idle: short, idleTunnels: short, idleClients: short})
	slowApp(t, m.b, 8080, pause)
	echoBytes(t, m.b, 9000)
	toListener(t, m.a, PortTCP)
	until(t, "the routes are known", func() error { return served200(m.a, "/upload") })

	upload := func(t *testing.T, c net.Conn) {
		_, _ = io.WriteString(c, "POST /upload HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\n\r\n")
		for range 4 {
			time.Sleep(pause / 2)
			_, _ = io.WriteString(c, "x")
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		if r.StatusCode != 200 || string(body) != "4 bytes" || err != nil {
			t.Errorf("status %d, body %q, error %v", r.StatusCode, body, err)
		}
	}
	stream := func(t *testing.T, c net.Conn) {
		_, _ = io.WriteString(c, "GET /stream HTTP/1.1\r\nHost: app\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		if r.StatusCode != 200 || string(body) != "onetwo" || err != nil {
			t.Errorf("status %d, body %q, error %v", r.StatusCode, body, err)
		}
	}
	websocket := func(t *testing.T, c net.Conn) {
		_, _ = io.WriteString(c, "GET /websocket HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		in := bufio.NewReader(c)
		r, err := http.ReadResponse(in, nil)
		if err != nil || r.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(r, err)
		}
		for range 2 {
			time.Sleep(pause)
			_, _ = io.WriteString(c, "hello\n")
			if line, err := in.ReadString('\n'); line != "hello\n" {
				t.Fatalf("%q %v", line, err)
			}
		}
	}
	for _, way := range []string{"a pod's requests", "requests in the clear", "a Gateway's HTTP port", "a Gateway's HTTPS port"} {
		for name, exchange := range map[string]func(*testing.T, net.Conn){"upload": upload, "stream": stream, "websocket": websocket} {
			if name == "websocket" && way == "requests in the clear" {
				continue // the policy's methods say nothing of it; a pod's requests end in the same listener
			}
			t.Run(way+"/"+name, func(t *testing.T) {
				t.Parallel()
				exchange(t, m.ways[way](t))
			})
		}
	}
	t.Run("gRPC-like stream", func(t *testing.T) {
		t.Parallel()
		protocols := &http.Protocols{}
		protocols.SetUnencryptedHTTP2(true)
		tr := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return m.a.Dial(ctx, "tcp", "127.0.0.1:15001")
		}}
		defer tr.CloseIdleConnections()
		r, w := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://app/both", r)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		in := bufio.NewReader(resp.Body)
		for range 2 {
			time.Sleep(pause)
			_, _ = io.WriteString(w, "hello\n")
			if line, err := in.ReadString('\n'); line != "hello\n" {
				t.Fatalf("%q %v", line, err)
			}
		}
		_ = w.Close()
	})
	t.Run("bytes", func(t *testing.T) {
		t.Parallel()
		c, err := m.a.Dial(t.Context(), "tcp", netip.AddrPortFrom(m.b.Address, 9000).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		in := bufio.NewReader(c)
		if line, err := in.ReadString('\n'); !strings.HasPrefix(line, m.a.Address.String()) {
			t.Fatalf("%q %v", line, err)
		}
		time.Sleep(2 * pause)
		_, _ = io.WriteString(c, "hello\n")
		if line, err := in.ReadString('\n'); line != "hello\n" {
			t.Errorf("%q %v", line, err)
		}
	})
}

// slowApp answers in a pod with pauses.
func slowApp(t *testing.T, p *lab.Pod, port uint16, pause time.Duration) {
	t.Helper()
	l := listenIn(t, p, netip.AddrPortFrom(p.Address, port))
	mux := http.NewServeMux()
	mux.HandleFunc("/upload", func(rw http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(rw, "%d bytes", n)
	})
	mux.HandleFunc("/stream", func(rw http.ResponseWriter, _ *http.Request) {
		time.Sleep(pause)
		_, _ = io.WriteString(rw, "one")
		_ = http.NewResponseController(rw).Flush()
		time.Sleep(pause)
		_, _ = io.WriteString(rw, "two")
	})
	mux.HandleFunc("/both", func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).Flush()
		in := bufio.NewReader(r.Body)
		for {
			line, err := in.ReadString('\n')
			_, _ = io.WriteString(rw, line)
			_ = http.NewResponseController(rw).Flush()
			if err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/websocket", func(rw http.ResponseWriter, _ *http.Request) {
		c, in, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, in)
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute, Protocols: bothProtocols()}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// Answers may have as many headers as requests.
func TestManyHeaders(t *testing.T) {
	m := newServed(t, defaultTimeouts)
	l, err := m.b.Listen("tcp", netip.AddrPortFrom(m.b.Address, 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, MaxHeaderValueCount: 1000, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if strings.HasPrefix(name, "X-Many-") {
				rw.Header().Set(name, "a")
			}
		}
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	var many strings.Builder
	for i := range 500 {
		fmt.Fprintf(&many, "X-Many-%d: a\r\n", i)
	}
	for _, way := range []string{"a pod's requests", "requests in the clear", "a Gateway's HTTP port", "a Gateway's HTTPS port"} {
		c := m.ways[way](t)
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: app\r\n"+many.String()+"\r\n")
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(way, err)
		}
		_ = r.Body.Close()
		if r.StatusCode != 200 || len(r.Header) < 500 {
			t.Errorf("%s: status %d and %d headers for a request with 500", way, r.StatusCode, len(r.Header))
		}
	}
}
