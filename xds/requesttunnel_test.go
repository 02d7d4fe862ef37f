package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	wefttunnel "github.com/weft-mesh/weft/tunnel"
)

// hostNetNS is a path, for other processes, to the network namespace that this one began in.
func hostNetNS(t *testing.T) string {
	t.Helper()
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
}

// tunnelFlows are what a weft tunnel reported.
type tunnelFlows struct {
	*tunnelProcess
	mu   sync.Mutex
	seen []wefttunnel.Flow
}

func startedTunnel(t *testing.T, w *world) *tunnelFlows {
	t.Helper()
	f := &tunnelFlows{}
	f.tunnelProcess = startTunnel(t, w, slog.New(slog.NewTextHandler(t.Output(), nil)), func(flow *wefttunnel.Flow) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.seen = append(f.seen, *flow)
	})
	until(t, "weft tunnel takes the connections of Envoy", func() error {
		if row, ok := w.st.Carried.Get(w.st.Snapshot(), model.Tunnel.Key()); !ok || row.GatewayPort == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	return f
}

func (f *tunnelFlows) count(which func(*wefttunnel.Flow) bool) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.seen {
		if which(&f.seen[i]) {
			n++
		}
	}
	return n
}

// failures is the number of connections that failed at the client's end.
func (f *tunnelFlows) failures() int {
	return f.count(func(f *wefttunnel.Flow) bool { return f.Outbound && f.Failure != "" })
}

// TestRequestsByTunnel: requests between workloads with an identity go by weft tunnel, from the client's address.
func TestRequestsByTunnel(t *testing.T) {
	pods := labPods(t, "a", "b", "c")
	w := newWorld(t, Config{RequestLog: true, Tunnel: true, GatewayNetNS: hostNetNS(t)})
	a, b := strictPair(w, pods)
	c := workload(pods[2], "shop", model.MTLSDisabled, nil)
	put(w, w.st.Workloads, c)
	echo(t, pods[1], 8080, "b")
	echo(t, pods[2], 8080, "c")
	loopbackService(w, "echo", endpointOf(b, 0, 8080), endpointOf(b, 1, 8080), endpointOf(c, 0, 8080))
	flows := startedTunnel(t, w)
	w.envoy()
	echoesFromBoth(t, pods[0])
	w.noRejections()
	until(t, "flows of both ends, of both families", func() error {
		for _, pod := range []struct {
			key  string
			id   model.Identity
			peer model.Identity
			out  bool
		}{{"shop/a", a.Identity, b.Identity, true}, {"shop/b", b.Identity, a.Identity, false}} {
			for i := range a.Addresses {
				if flows.count(func(f *wefttunnel.Flow) bool {
					return f.Workload == pod.key && f.Outbound == pod.out && f.Local == pod.id && f.Peer == pod.peer && f.Failure == "" &&
						f.Source.Addr() == a.Addresses[i] && f.Source.Port() != 0 && f.Destination == netip.AddrPortFrom(b.Addresses[i], 8080)
				}) == 0 {
					return fmt.Errorf("none of %s by %s in %+v", pod.key, a.Addresses[i], flows.all())
				}
			}
		}
		return nil
	})
	until(t, "a request with its backend and its peer", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, f := range w.flows {
			if f.Request != nil && f.Outbound && f.Local == a.Identity && f.Peer == b.Identity && f.Request.Backend == netip.AddrPortFrom(b.Addresses[0], 8080) {
				return nil
			}
		}
		return fmt.Errorf("flows: %s", describe(w.flows))
	})
	if n := len(w.hboneFlows()); n > 0 {
		t.Errorf("%d connections went by HBONE", n)
	}
}

// hboneFlows are those of connections by HBONE.
func (w *world) hboneFlows() (flows []*Flow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.flows {
		if f.Request == nil {
			flows = append(flows, f)
		}
	}
	return flows
}

// TestWrongIdentityByTunnel: another pod has the endpoint's address by now than the one that Envoy knows there. The request fails.
func TestWrongIdentityByTunnel(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{Tunnel: true, GatewayNetNS: hostNetNS(t)})
	_, b := strictPair(w, pods)
	echo(t, pods[1], 8080, "b")
	e := endpointOf(b, 0, 8080)
	e.Identity = identity("shop", "other")
	loopbackService(w, "echo", e)
	flows := startedTunnel(t, w)
	w.envoy()
	if status, body, err := ask(pods[0], "127.0.0.1:15001", "echo.shop", "/"); status != 503 {
		t.Fatal(status, body, err)
	}
	until(t, "a flow that failed", func() error {
		if flows.failures() == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	loopbackService(w, "echo", endpointOf(b, 0, 8080))
	until(t, "the right identity is served", func() error {
		status, body, err := ask(pods[0], "127.0.0.1:15001", "echo.shop", "/")
		if status != 200 {
			return fmt.Errorf("%d %s %w", status, body, err)
		}
		return nil
	})
}

// TestTunnelTakesOver: while another weft tunnel takes over, no request fails, POSTs included, and the old one ends soon. Without one,
// requests go by HBONE.
func TestTunnelTakesOver(t *testing.T) {
	pods := labPods(t, "a", "b")
	w := newWorld(t, Config{Tunnel: true, GatewayNetNS: hostNetNS(t)})
	_, b := strictPair(w, pods)
	echo(t, pods[1], 8080, "b")
	loopbackService(w, "echo", endpointOf(b, 0, 8080))
	old := startedTunnel(t, w)
	w.envoy()
	var asked atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() { w.post(t, dialFrom(t, pods[0], "127.0.0.1:15001"), &asked, stop) })
	}
	more := func(n int64) {
		t.Helper()
		want := asked.Load() + n
		until(t, "more requests", func() error {
			if asked.Load() < want && !t.Failed() {
				return errors.New("not yet")
			}
			return nil
		})
	}
	more(200)
	next, nextEnded := old.another()
	more(200)
	old.Drain()
	select {
	case <-old.ended:
	case <-time.After(20 * time.Second):
		t.Error("the old weft tunnel still carries connections")
	}
	more(200)
	if n := len(w.hboneFlows()); n > 0 {
		t.Errorf("%d connections went by HBONE while there was a weft tunnel", n)
	}
	next.Drain()
	<-nextEnded
	more(200)
	if n := len(w.hboneFlows()); n == 0 {
		t.Error("no connection went by HBONE after weft tunnel had gone")
	}
	close(stop)
	load.Wait()
	w.noRejections()
}

// post sends requests that must not be repeated on one connection.
func (w *world) post(t *testing.T, c net.Conn, asked *atomic.Int64, stop <-chan struct{}) {
	defer c.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}, Timeout: 10 * time.Second}
	for {
		select {
		case <-stop:
			return
		default:
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		r, err := client.Post("http://echo.shop/", "text/plain", strings.NewReader("abcd"))
		if err != nil {
			t.Error(err)
			return
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != http.StatusOK {
			t.Errorf("%d %s %v", r.StatusCode, body, err)
			return
		}
		asked.Add(1)
	}
}

func (f *tunnelFlows) all() []wefttunnel.Flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}

// TestConnectionsKeepTheirWay: many connections are made at once, for several pods and endpoints, and each leads to the endpoint
// and has the identity that it was made for.
func TestConnectionsKeepTheirWay(t *testing.T) {
	names := []string{"a", "b", "c", "d"}
	pods := labPods(t, names...)
	w := newWorld(t, Config{Tunnel: true, GatewayNetNS: hostNetNS(t)})
	var rules []model.Rule
	for i, p := range pods {
		wl := workload(p, "shop", model.MTLSStrict, nil)
		put(w, w.st.Workloads, wl)
		put(w, w.st.SVIDs, w.ca.svid(wl.Identity))
		saysWho(t, p, 8080)
		put(w, w.st.Services, &model.Service{Namespace: "shop", Name: names[i], Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
		put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/" + names[i], Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{endpointOf(wl, 0, 8080)}})
		rules = append(rules, model.Rule{Backends: []model.Backend{to(names[i], 1)}, Match: path(model.MatchPrefix, "/"+names[i])})
	}
	loopbackService(w, "app")
	put(w, w.st.RouteTables, &model.RouteTable{
		Name: model.ServiceTable("shop", "app", PortHTTP), VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: rules}},
	})
	flows := startedTunnel(t, w)
	w.envoy()
	for range 3 {
		atOnce(20*len(pods), func(i int) {
			from, to := pods[i%4], pods[i/4%4]
			status, body, err := ask(from, "127.0.0.1:15001", "app", "/"+to.Name)
			host, _, _ := net.SplitHostPort(strings.TrimPrefix(body, to.Name+" "))
			if err != nil || status != http.StatusOK || host != from.Address.String() {
				t.Errorf("from %s (%s) to %s: %d %q %v", from.Name, from.Address, to.Name, status, body, err)
			}
		})
	}
	until(t, "flows", func() error {
		if len(flows.all()) < 2*len(pods)*len(pods) {
			return errors.New("not yet")
		}
		return nil
	})
	for _, f := range flows.all() {
		if !f.Outbound && !strings.HasSuffix(string(f.Peer), "/"+podAt(pods, f.Source.Addr())) {
			t.Errorf("%s came with the identity %s", f.Source, f.Peer)
		}
	}
	w.noRejections()
}

func podAt(pods []*lab.Pod, a netip.Addr) string {
	for _, p := range pods {
		if p.Address == a {
			return p.Name
		}
	}
	return ""
}

// saysWho answers each request with the pod's name and the client's address, and closes: the next one needs a connection.
func saysWho(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	l := listenIn(t, p, netip.AddrPortFrom(p.Address, port))
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, p.Name, " ", r.RemoteAddr)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}
