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
	"path/filepath"
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

// alone is a mesh of which Envoy knows what pod a has used, and no more.
type alone struct {
	*served
	c *lab.Pod // has an identity whose certificate Envoy never fetched
	d *lab.Pod // its connections to pod b's port 8081, which is a Service's, go to Envoy, which never fetched the routes
}

func newAlone(t *testing.T) *alone {
	m := &alone{served: newServed(t, defaultTimeouts, "c", "d")}
	m.c, m.d = m.others[0], m.others[1]
	for _, p := range m.others {
		w := workload(p, "shop", model.MTLSPermissive, nil)
		put(m.world, m.st.Workloads, w)
		put(m.world, m.st.SVIDs, m.ca.svid(w.Identity))
	}
	slowApp(t, m.b, 8080, 2*defaultTimeouts.agent)
	echoBytes(t, m.b, 9000)
	toListener(t, m.a, PortTCP)
	toListener(t, m.d, PortHTTP)
	put(m.world, m.st.Services, &model.Service{
		Namespace: "shop", Name: "other", Addresses: []netip.Addr{m.b.Address},
		Ports: []model.ServicePort{{Name: "http", Port: 8081, Protocol: model.TCP, L7: true}},
	})
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
		if !m.accepted(TypeListener, "shop/c/out-http") || !m.accepted(TypeListener, "shop/d/out-http") ||
			!m.accepted(TypeScope, netip.AddrPortFrom(m.b.Address, 8081).String()) {
			return errors.New("not yet")
		}
		return nil
	})
	return m
}

func (m *alone) check(t *testing.T) {
	for name, c := range map[string]struct {
		dial func(*testing.T) net.Conn
		path string
	}{
		"a route table":             {func(t *testing.T) net.Conn { return dialFrom(t, m.d, netip.AddrPortFrom(m.b.Address, 8081).String()) }, "/"},
		"a cluster":                 {m.ways["a pod's requests"], "/unknown"},
		"a cluster, at a Gateway":   {m.ways["a Gateway's HTTP port"], "/unknown"},
		"an identity's certificate": {func(t *testing.T) net.Conn { return dialFrom(t, m.c, "127.0.0.1:15001") }, "/upload"},
	} {
		for proto, exchange := range map[string]func(net.Conn, string, io.Reader) (int, string, error){"HTTP/1": overHTTP1, "HTTP/2": overHTTP2} {
			t.Run(name+"/"+proto, func(t *testing.T) {
				t.Parallel()
				status, body, err := exchange(c.dial(t), c.path, nil)
				if err != nil || status != http.StatusServiceUnavailable {
					t.Errorf("status %d, %q, %v", status, body, err)
				}
			})
			t.Run(name+"/"+proto+" with a body", func(t *testing.T) {
				t.Parallel()
				status, body, err := exchange(c.dial(t), c.path, strings.NewReader("abcd"))
				if err != nil || status != http.StatusServiceUnavailable {
					t.Errorf("status %d, %q, %v", status, body, err)
				}
			})
		}
	}
	t.Run("bytes to an address", func(t *testing.T) {
		t.Parallel()
		if err := closed(dialFrom(t, m.a, netip.AddrPortFrom(m.b.Address, 9000).String())); err != nil {
			t.Error(err)
		}
	})
	for _, path := range []string{"/upload", "/stream"} {
		t.Run("what is known is served"+path, func(t *testing.T) {
			t.Parallel()
			if err := served200(m.a, path); err != nil {
				t.Error(err)
			}
		})
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
