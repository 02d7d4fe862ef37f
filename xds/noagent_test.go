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
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

func served200(p *lab.Pod, path string) error {
	status, body, err := ask(p, "127.0.0.1:15001", "app", path)
	if err == nil && status != 200 {
		err = fmt.Errorf("status %d: %s", status, body)
	}
	return err
}

// While no agent answers, what Envoy has never asked for cannot be known. Whatever waits for it fails within a bounded
// time, and what is known is served.
func TestNobodyAnswersEnvoy(t *testing.T) {
	for name, leave := range map[string]func(*testing.T, *world){
		"no agent runs": func(_ *testing.T, w *world) { w.stop() },
		"the agent hangs": func(t *testing.T, w *world) {
			w.stop()
			l, err := net.Listen("unix", filepath.Join(w.dir, "xds.sock"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() }) // takes connections in and is silent
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newAlone(t)
			leave(t, m.world)
			m.check(t)
		})
	}
}

// soon is how long a client waits that must be let go. Envoy's own bounds are 5 s and more.
const soon = 4 * time.Second

// within has something tried up to three times until it takes less than most: a busy machine may hold up one of them, and what has
// no bound is slow each time.
func within(t *testing.T, most time.Duration, try func() error) error {
	t.Helper()
	var took []time.Duration
	for range 3 {
		began := time.Now()
		if err := try(); err != nil {
			return err
		}
		if took = append(took, time.Since(began)); took[len(took)-1] < most {
			return nil
		}
	}
	return fmt.Errorf("it takes %v each time, want less than %v", took, most)
}

// alone is a mesh of which Envoy knows what pod a has used, and no more.
type alone struct {
	*served
	c *lab.Pod // has an identity whose certificate no connection has used yet
	d *lab.Pod // its connections to pod b's port 8081, which is a Service's, go to Envoy, which never fetched the routes
	e *lab.Pod // those of this one to port 8082 go to the listener for what may or may not be HTTP, and TLS to the one that divides by name

	f *lab.Pod // has an identity without a certificate

	bytes uint16 // the Gateway's port of a TCPRoute whose backend Envoy never asked for
}

func newAlone(t *testing.T) *alone {
	m := &alone{served: newServed(t, defaultTimeouts, "c", "d", "e", "f"), bytes: freePort(t)}
	m.c, m.d, m.e, m.f = m.others[0], m.others[1], m.others[2], m.others[3]
	for _, p := range m.others {
		w := workload(p, "shop", model.MTLSPermissive, nil)
		put(m.world, m.st.Workloads, w)
		if p != m.f {
			put(m.world, m.st.SVIDs, m.ca.svid(w.Identity))
		}
	}
	slowApp(t, m.b, 8080, 2*defaultTimeouts.agent)
	echoBytes(t, m.b, 9000)
	toListener(t, m.a, PortTCP)
	toListener(t, m.d, PortHTTP)
	put(m.world, m.st.Services, &model.Service{
		Namespace: "shop", Name: "other", Addresses: []netip.Addr{m.b.Address},
		Ports: []model.ServicePort{
			{Name: "http", Port: 8081, Protocol: model.TCP, L7: true}, {Name: "undeclared", Port: 8082, Protocol: model.TCP, L7: true, Detect: true},
		},
	})
	dividedByName(t, m.world, m.e, "*.names.example", endpointOf(m.wb, 0, 8443))
	toListener(t, m.e, PortDetect)
	stream := streamRef("TCPRoute", "bytes")
	putStream(m.world, stream, model.Backend{Namespace: "shop", Name: "other", Port: 8081, Weight: 1})
	gw, _ := m.st.Gateways.Get(m.st.Snapshot(), "shop/gw")
	more := *gw
	more.Ports = append(slices.Clone(gw.Ports), model.GatewayPort{Port: m.bytes, Listeners: []model.GatewayListener{{Name: "tcp", Streams: []model.GatewayStream{{Route: stream}}}}})
	put(m.world, m.st.Gateways, &more)
	rules := []model.Rule{{
		Match:    model.Match{Path: model.PathMatch{Type: model.MatchPrefix, Value: "/unknown"}},
		Backends: []model.Backend{{Namespace: "shop", Name: "other", Port: 8081, Weight: 1}},
	}, {
		Backends: []model.Backend{{Namespace: "shop", Name: "app", Port: PortHTTP, Weight: 1}},
	}}
	for _, table := range []string{model.ServiceTable("shop", "app", PortHTTP), model.GatewayTable("shop", "gw", m.http, "")} {
		put(m.world, m.st.RouteTables, &model.RouteTable{Name: table, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: rules}}})
	}
	until(t, "what pod a uses is known", func() error { return served200(m.a, "/upload") })
	until(t, "the Gateway has its routes", func() error {
		if !m.accepted(TypeRoute, model.GatewayTable("shop", "gw", m.http, "")+plainSuffix) {
			return errors.New("not yet")
		}
		return nil
	})
	until(t, "the listeners of the other pods and the scope are there", func() error {
		if !m.accepted(TypeSecret, string(identity("shop", "c"))) {
			return errors.New("no certificate of pod c yet")
		}
		for _, name := range []string{"shop/c/out-http", "shop/d/out-http", "shop/f/out-http", "shop/e/" + outDetect, "shop/e/" + outSNI} {
			if !m.accepted(TypeListener, name) {
				return fmt.Errorf("no listener %s yet", name)
			}
		}
		for _, port := range []uint16{8081, 8082} {
			if at := netip.AddrPortFrom(m.b.Address, port); !m.accepted(TypeScope, at.String()) {
				return fmt.Errorf("no scope %s yet", at)
			}
		}
		c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", m.bytes))
		if err == nil {
			c.Close()
		}
		return err
	})
	return m
}

func (m *alone) check(t *testing.T) {
	for name, c := range map[string]struct {
		dial func(*testing.T) net.Conn
		path string
	}{
		"a route table": {func(t *testing.T) net.Conn { return dialFrom(t, m.d, netip.AddrPortFrom(m.b.Address, 8081).String()) }, "/"},
		"a route table, where HTTP is not declared": {func(t *testing.T) net.Conn { return dialFrom(t, m.e, netip.AddrPortFrom(m.b.Address, 8082).String()) }, "/"},
		"a cluster":                 {m.ways["a pod's requests"], "/unknown"},
		"a cluster, at a Gateway":   {m.ways["a Gateway's HTTP port"], "/unknown"},
		"an identity's certificate": {func(t *testing.T) net.Conn { return dialFrom(t, m.f, "127.0.0.1:15001") }, "/upload"},
	} {
		for proto, exchange := range map[string]func(net.Conn, string, io.Reader) (int, string, error){"HTTP/1": overHTTP1, "HTTP/2": overHTTP2} {
			for with, body := range map[string]string{"": "", " with a body": "abcd"} {
				t.Run(name+"/"+proto+with, func(t *testing.T) {
					t.Parallel()
					most := soon
					if name == "an identity's certificate" {
						most = 15 * time.Second // each try of a GET waits for it anew: some 8 s in all
					}
					if err := within(t, most, func() error {
						var reader io.Reader
						if body != "" {
							reader = strings.NewReader(body)
						}
						status, text, err := exchange(c.dial(t), c.path, reader)
						if err == nil && status != http.StatusServiceUnavailable {
							err = fmt.Errorf("status %d, %q", status, text)
						}
						return err
					}); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
	m.checkBytes(t)
	for name, p := range map[string]*lab.Pod{"what is known": m.a, "the first request with a certificate": m.c} {
		for _, path := range []string{"/upload", "/stream"} {
			t.Run(name+" is served"+path, func(t *testing.T) {
				t.Parallel()
				if err := served200(p, path); err != nil {
					t.Error(err)
				}
			})
		}
	}
	t.Run("an upload on a known route may pause", func(t *testing.T) {
		t.Parallel()
		r, w := io.Pipe()
		go func() {
			for range 2 {
				_, _ = io.WriteString(w, "x")
				time.Sleep(2 * defaultTimeouts.agent)
			}
			_ = w.Close()
		}()
		status, body, err := overHTTP2(m.ways["a pod's requests"](t), "/upload", r)
		if err != nil || status != 200 || body != "2 bytes" {
			t.Errorf("status %d, %q, %v", status, body, err)
		}
	})
}

// checkBytes has connections closed that are no requests.
func (m *alone) checkBytes(t *testing.T) {
	for name, send := range map[string]func(*testing.T) (net.Conn, error){
		"bytes to an address": func(t *testing.T) (net.Conn, error) {
			return dialFrom(t, m.a, netip.AddrPortFrom(m.b.Address, 9000).String()), nil
		},
		"TLS that is divided by name": func(t *testing.T) (net.Conn, error) {
			c := dialFrom(t, m.e, named)
			go func() { _ = tls.Client(c, &tls.Config{ServerName: "a.names.example"}).HandshakeContext(t.Context()) }()
			return c, nil
		},
		"bytes to a Gateway": func(t *testing.T) (net.Conn, error) {
			c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", m.bytes))
			if err == nil {
				t.Cleanup(func() { _ = c.Close() })
				err = c.SetDeadline(time.Now().Add(15 * time.Second))
			}
			return c, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := within(t, soon, func() error {
				c, err := send(t)
				if err != nil {
					return err
				}
				return closed(c)
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

// A client may take longer to send the headers of a request than a request may wait for the agent: the bound counts from
// their end.
func TestSlowHeadersAreServed(t *testing.T) {
	for name, leave := range map[string]func(m *alone){"an agent runs": func(*alone) {}, "no agent runs": func(m *alone) { m.stop() }} {
		t.Run(name, func(t *testing.T) {
			m := newAlone(t)
			leave(m)
			t.Run("the route is known", func(t *testing.T) {
				t.Parallel()
				status, body, err := overSlowHTTP1(dialFrom(t, m.a, "127.0.0.1:15001"), "/upload", 3*defaultTimeouts.agent)
				if err != nil || status != http.StatusOK {
					t.Errorf("status %d, %q, %v", status, body, err)
				}
			})
			t.Run("the route is not known", func(t *testing.T) {
				t.Parallel()
				status, body, err := overSlowHTTP1(dialFrom(t, m.d, netip.AddrPortFrom(m.b.Address, 8081).String()), "/", 3*defaultTimeouts.agent)
				// An agent has a route for it, to a Service without endpoints.
				answered := strings.Contains(body, "agent does not answer")
				if err != nil || status != http.StatusServiceUnavailable || answered != (name == "no agent runs") {
					t.Errorf("status %d, %q, %v", status, body, err)
				}
			})
		})
	}
}

// overSlowHTTP1 sends a GET whose headers take a while, byte by byte.
func overSlowHTTP1(c net.Conn, path string, takes time.Duration) (int, string, error) {
	text := "GET " + path + " HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n"
	for i := range len(text) {
		if _, err := io.WriteString(c, text[i:i+1]); err != nil {
			break // it was answered, or will be
		}
		time.Sleep(takes / time.Duration(len(text)))
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r.StatusCode, string(body), err
}

func dialFrom(t *testing.T, p *lab.Pod, at string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := p.Dial(ctx, "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	return c
}

// overHTTP1 and overHTTP2 send a request on a connection: GET, or POST if there is a body.
func overHTTP1(c net.Conn, path string, body io.Reader) (int, string, error) {
	req, err := newRequest(path, body)
	if err != nil {
		return 0, "", err
	}
	if err := req.Write(c); err != nil {
		return 0, "", err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return r.StatusCode, string(text), err
}

func overHTTP2(c net.Conn, path string, body io.Reader) (int, string, error) {
	req, err := newRequest(path, body)
	if err != nil {
		return 0, "", err
	}
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: protocols, DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	r, err := tr.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return r.StatusCode, string(text), err
}

func newRequest(path string, body io.Reader) (*http.Request, error) {
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	return http.NewRequest(method, "http://app"+path, body)
}
