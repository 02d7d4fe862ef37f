package xds

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// The only caller on a node changes between all modes, and so does the server that it talks to. What is under way goes on,
// and a connection that is kept serves requests in each mode. Each mode lasts longer than Envoy serves a filter chain that
// was replaced.
func TestConnectionsOutliveModes(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{RequestLog: true})
	put(w, w.st.SVIDs, w.ca.svid(identity("shop", "a")), w.ca.svid(identity("shop", "b")))
	ticks(t, pods[1], 8080)
	change := func(caller, server model.MTLSMode) {
		b := workload(pods[1], "shop", server, nil)
		put(w, w.st.Workloads, workload(pods[0], "shop", caller, nil), b)
		loopbackService(w, "echo", endpointOf(b, 0, 8080))
	}
	const permissive, disabled, strict = model.MTLSPermissive, model.MTLSDisabled, model.MTLSStrict
	change(permissive, permissive)
	w.envoy()
	kept := []*keptClient{newKeptClient(t, pods[0], false), newKeptClient(t, pods[0], true)}
	streams := openStreams(t, kept)
	cluster := map[string]string{} // by path
	for i, mode := range []struct{ caller, server model.MTLSMode }{
		{disabled, permissive}, {permissive, disabled}, {strict, permissive}, {disabled, disabled}, {strict, strict}, {permissive, permissive},
	} {
		change(mode.caller, mode.server)
		for end := time.Now().Add(1200 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			requestAll(t, kept, "/")
		}
		path := fmt.Sprint("/mode", i)
		cluster[path] = "service/shop/echo/15001"
		if mode.caller == disabled {
			cluster[path] += plainSuffix
		}
		requestAll(t, kept, path)
		streams = append(streams, openStreams(t, kept)...)
	}
	for _, s := range streams {
		if err := s.next(); err != nil {
			t.Errorf("a stream that was open before the mode changed, HTTP/2 %t: %v", s.http2, err)
		}
	}
	for _, k := range kept {
		if n := k.dialed.Load(); n != 1 {
			t.Errorf("HTTP/2 %t: requests took %d connections", k.http2, n)
		}
	}
	for path, name := range cluster {
		until(t, "requests take the way of the mode", func() error { return wentBy(w, path, name, len(kept)) })
	}
	w.noRejections()
}

func requestAll(t *testing.T, clients []*keptClient, path string) {
	t.Helper()
	for _, k := range clients {
		if err := k.request(path); err != nil {
			t.Fatalf("%s, HTTP/2 %t: %v", path, k.http2, err)
		}
	}
}

// A filter that chooses scopes of the other kind is not sent before Envoy has said that it has them.
func TestFilterWaitsForScopes(t *testing.T) {
	w := newWorld(t, Config{})
	goldenService(w, model.ServicePort{Port: 80, Protocol: model.TCP, L7: true})
	put(w, w.st.Workloads, goldenPod("web", "10.1.0.1", model.MTLSDisabled, nil))
	c := w.client()
	c.subscribe(TypeScope)
	c.next()
	c.subscribe(TypeFilter, "shop/web/out-http")
	c.next()
	put(w, w.st.Workloads, goldenPod("web", "10.1.0.1", model.MTLSPermissive, nil))
	c.waitsFor(TypeScope)
	if filter := c.next(); filter.TypeUrl != TypeFilter {
		t.Errorf("then came %s", filter.TypeUrl)
	}
}

// waitsFor takes a response of a type, sees that nothing follows, and answers it.
func (c *client) waitsFor(typeURL string) {
	c.t.Helper()
	r := <-c.got
	if r.TypeUrl != typeURL {
		c.t.Fatalf("first came %s", r.TypeUrl)
	}
	c.quiet()
	c.answer(r)
}

// A table whose virtual host the caller's namespace chooses is not sent before Envoy has the filters that write that namespace: those of
// an older agent do not, and Envoy would answer 404.
func TestTableByCallerWaitsForFilters(t *testing.T) {
	w := newWorld(t, Config{})
	goldenService(w, model.ServicePort{Port: 80, Protocol: model.TCP, L7: true})
	put(w, w.st.Workloads, goldenPod("web", "10.1.0.1", model.MTLSDisabled, nil))
	name, filter := "service/shop/echo/80", "shop/web/out-http"
	table := &model.RouteTable{Name: name, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{Status: 204, CallerNamespace: "shop"}, {Status: 200}}}}}
	put(w, w.st.RouteTables, table)
	first := w.client()
	first.subscribe(TypeFilter, filter)
	now := first.next().Resources[0].Version
	initial := func(c *client, typeURL, name, version string) {
		c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: []string{name},
			InitialResourceVersions: map[string]string{name: version}})
	}
	arrives := func(c *client) {
		t.Helper()
		if r := c.next(); r.TypeUrl != TypeRoute || !slices.Equal(resourceNames(r), []string{name}) {
			t.Errorf("%s %v came in place of the table", r.TypeUrl, resourceNames(r))
		}
	}
	t.Run("the filter is older", func(*testing.T) {
		c := w.client()
		initial(c, TypeRoute, name, "older")
		c.quiet()
		initial(c, TypeFilter, filter, "older")
		c.waitsFor(TypeFilter)
		arrives(c)
	})
	t.Run("the filter is the same", func(*testing.T) {
		c := w.client()
		initial(c, TypeRoute, name, "older")
		c.quiet()
		initial(c, TypeFilter, filter, now)
		arrives(c)
	})
	t.Run("the pod is gone", func(*testing.T) {
		c := w.client()
		initial(c, TypeFilter, "shop/gone/out-http", "older")
		c.next()
		c.subscribe(TypeRoute, name)
		arrives(c)
	})
	t.Run("all callers are equal", func(*testing.T) {
		equal := *table
		equal.VirtualHosts = []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{Status: 200}}}}
		put(w, w.st.RouteTables, &equal)
		c := w.client()
		initial(c, TypeRoute, name, "older")
		arrives(c)
	})
}

// A policy is sent after the listeners that changed with it, so that workers of Envoy that have the policy have the listeners too.
func TestPolicyWaitsForListeners(t *testing.T) {
	w := newWorld(t, Config{})
	p := readsRequests()
	bytes := *p
	bytes.Policy = &model.Policy{Names: []string{"shop/p"}, Rules: []model.PolicyRule{{}}}
	put(w, w.st.Workloads, &bytes)
	c := w.client()
	c.subscribe(TypeListener)
	c.next()
	filter := workloadName(p, inHBONE)
	if !slices.Contains(PolicyFilterNames(p), filter) {
		t.Fatalf("filters %q", PolicyFilterNames(p))
	}
	c.subscribe(TypeFilter, filter)
	c.next()
	p.Policy.Rules[0].Ports = []uint16{80}
	put(w, w.st.Workloads, p)
	c.waitsFor(TypeListener)
	if r := c.next(); r.TypeUrl != TypeFilter {
		t.Errorf("then came %s", r.TypeUrl)
	}
}

// ticks answers /ticks with a line each 20 ms without an end, and everything else at once.
func ticks(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	l := listenIn(t, p, netip.AddrPortFrom(p.Address, port))
	s := &http.Server{Protocols: bothProtocols(), ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		for r.URL.Path == "/ticks" && r.Context().Err() == nil {
			_, _ = fmt.Fprintln(rw, "tick")
			_ = http.NewResponseController(rw).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// keptClient sends requests of a pod over one connection, and opens streams.
type keptClient struct {
	http2   bool
	client  *http.Client // for requests
	streams *http.Client
	dialed  atomic.Int64 // connections that client made
}

func newKeptClient(t *testing.T, p *lab.Pod, http2 bool) *keptClient {
	k := &keptClient{http2: http2}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	client := func(count *atomic.Int64) *http.Client {
		tr := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			count.Add(1)
			return p.Dial(ctx, "tcp", "127.0.0.1:15001")
		}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	k.client = client(&k.dialed)
	k.streams = client(new(atomic.Int64))
	return k
}

// request asks once.
func (k *keptClient) request(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://echo.shop"+path, strings.NewReader("x"))
	if err != nil {
		return err
	}
	r, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", r.StatusCode)
	}
	return nil
}

// tickStream is an answer without an end.
type tickStream struct {
	http2 bool
	lines *bufio.Scanner
	seen  atomic.Int64
	ended chan error
}

// openStreams opens a stream with each client.
func openStreams(t *testing.T, clients []*keptClient) []*tickStream {
	t.Helper()
	var out []*tickStream
	for _, k := range clients {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://echo.shop/ticks", nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := k.streams.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Body.Close() })
		if r.StatusCode != http.StatusOK {
			t.Fatalf("a stream: status %d", r.StatusCode)
		}
		s := &tickStream{http2: k.http2, lines: bufio.NewScanner(r.Body), ended: make(chan error, 1)}
		go func() {
			for s.lines.Scan() {
				s.seen.Add(1)
			}
			s.ended <- s.lines.Err()
		}()
		out = append(out, s)
	}
	return out
}

// next waits for a line that comes from now on.
func (s *tickStream) next() error {
	before := s.seen.Load()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-s.ended:
			return fmt.Errorf("ended after %d lines: %w", s.seen.Load(), err)
		default:
		}
		if s.seen.Load() > before+1 { // more than what was on its way
			return nil
		}
	}
	return fmt.Errorf("nothing comes after %d lines", before)
}

// wentBy reports whether n requests for a path went to a cluster, and none to another.
func wentBy(w *world, path, cluster string, n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.flows {
		if f.Request == nil || f.Request.Path != path {
			continue
		}
		if f.Request.Cluster != cluster {
			w.t.Fatalf("%s went to %s, want %s", path, f.Request.Cluster, cluster)
		}
		n--
	}
	if n > 0 {
		return fmt.Errorf("%d requests are not in the log yet", n)
	}
	return nil
}
