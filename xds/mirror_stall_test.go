package xds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

const mib = 1 << 20

// A mirror backend that accepts connections and never reads from them must cost neither the primary requests nor
// Envoy's memory.
func TestMirrorBackendHangs(t *testing.T) {
	for _, test := range []struct {
		name    string
		gateway bool
		copies  model.MTLSMode // of the backend that hangs
		http2   bool
	}{
		{"Service, in the clear, HTTP/1", false, model.MTLSDisabled, false},
		{"Service, over HBONE, HTTP/2", false, model.MTLSStrict, true},
		{"Gateway, in the clear, HTTP/2", true, model.MTLSDisabled, true},
		{"Gateway, over HBONE, HTTP/1", true, model.MTLSStrict, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMirrorWorld(t, Config{}, test.gateway, test.copies)
			mirror := hangs(t, m.mirror, 8080)
			m.mirrored(false, false)
			e := m.w.envoy()
			until(t, "Envoy has the route", func() error { // until then requests fail on a busy machine
				return upload(t.Context(), m.httpClient(test.http2), "http://"+m.at+"/", 1)
			})
			// Large bodies are not copied, small ones are.
			control, peak := m.load(e, test.http2, 63, 16*mib)
			m.wants(control, 63)
			control, _ = m.load(e, test.http2, 2*mirrorRequests, mirrorBytes/2)
			m.wants(control, 2*mirrorRequests)
			before := allocated(t, e)
			m.mirrored(true, true)
			got, large := m.load(e, test.http2, 63, 16*mib)
			m.wants(got, 63)
			if n := mirror.count(); n != 0 {
				t.Errorf("%d connections to the mirror backend for requests that are too large to be copied", n)
			}
			got, small := m.load(e, test.http2, 2*mirrorRequests, mirrorBytes/2)
			m.wants(got, 2*mirrorRequests)
			until(t, "a copy reaches the mirror backend", func() error {
				if mirror.count() > 0 {
					return nil
				}
				got, _ := m.load(e, test.http2, 1, 1)
				m.wants(got, 1)
				return errors.New("none did")
			})
			t.Logf("Envoy allocated at most %d and %d MiB, %d MiB without a mirror", large/mib, small/mib, peak/mib)
			if most := peak + 256*mib; large > most || small > most {
				t.Errorf("Envoy allocated %d and %d MiB, want at most %d MiB", large/mib, small/mib, most/mib)
			}
			m.frees(e, before)
			m.w.noRejections()
		})
	}
}

// A request must not wait for its copy, not even until the copy is given up.
func TestRequestDoesNotWaitForItsCopy(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", h2), func(t *testing.T) {
			m := newMirrorWorld(t, copyTimeouts(time.Hour, time.Hour), false, model.MTLSDisabled)
			hangs(t, m.mirror, 8080)
			m.mirrored(true, false)
			e := m.w.envoy()
			got, _ := m.load(e, h2, 4, 64*mib)
			m.wants(got, 4)
			got, _ = m.load(e, h2, 2*mirrorRequests, mirrorBytes/2)
			m.wants(got, 2*mirrorRequests)
			m.w.noRejections()
		})
	}
}

// TestCopiesAreCounted: Envoy counts copies that were sent, that were too large, and that were dropped or failed because the backend
// hangs, while the requests themselves are served.
func TestCopiesAreCounted(t *testing.T) {
	cfg := copyTimeouts(5*time.Second, 10*time.Second)
	cfg.RequestStats = true
	m := newMirrorWorld(t, cfg, false, model.MTLSDisabled)
	hangs(t, m.mirror, 8080)
	m.mirrored(true, false)
	e := m.w.envoy()
	until(t, "Envoy has the route", func() error {
		return upload(t.Context(), m.httpClient(false), "http://"+m.at+"/", 1)
	})
	got, _ := m.load(e, false, 4, 2*mirrorBytes)
	m.wants(got, 4)
	got, _ = m.load(e, false, 3*mirrorRequests, 1)
	m.wants(got, 3*mirrorRequests)
	const dropped, copies = "cluster.mirror.upstream_rq_active_overflow: ", "weft.copies.|cluster."
	until(t, "copies are counted", func() error {
		text, err := e.get("/stats?usedonly&filter=" + url.QueryEscape(`^weft\.copies|^cluster\.mirror\.`))
		if err != nil {
			return err
		}
		var overflow, large, failed bool
		for line := range strings.Lines(text) {
			overflow = overflow || strings.HasPrefix(line, dropped)
			ours := strings.HasPrefix(line, copies) && strings.Contains(line, "service/shop/copies/")
			large = large || ours && strings.Contains(line, ".|code.413.|flags.-")
			failed = failed || ours && !strings.Contains(line, ".|flags.-")
		}
		if !overflow || !large || !failed {
			return fmt.Errorf("dropped %t, too large %t, failed %t: %s", overflow, large, failed, text)
		}
		return nil
	})
	m.w.noRejections()
}

// What a mirror backend answers must not fill Envoy's memory either, and an answer that never ends is given up.
func TestMirrorBackendFloods(t *testing.T) {
	for _, test := range []struct {
		name  string
		chunk int
		pause time.Duration
	}{
		{"as fast as it can", mib, 0},
		{"slowly", 1, 100 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMirrorWorld(t, copyTimeouts(3*time.Second, 5*time.Second), false, model.MTLSDisabled)
			answering := floods(t, m.mirror, 8080, test.chunk, test.pause)
			m.mirrored(true, false)
			e := m.w.envoy()
			before := allocated(t, e)
			got, peak := m.load(e, false, 63, 1)
			m.wants(got, 63)
			until(t, "the mirror backend is not listened to any more", func() error {
				peak = max(peak, allocated(t, e))
				if total, now := answering(); total == 0 || now > 0 {
					return fmt.Errorf("%d answers of %d are under way", now, total)
				}
				return nil
			})
			t.Logf("Envoy allocated at most %d MiB", peak/mib)
			if most := before + 128*mib; peak > most {
				t.Errorf("Envoy allocated %d MiB, want at most %d MiB", peak/mib, most/mib)
			}
			m.frees(e, before)
			m.w.noRejections()
		})
	}
}

func copyTimeouts(idle, whole time.Duration) Config {
	limits := defaultTimeouts
	limits.idleCopies, limits.copies = idle, whole
	return Config{testTimeouts: &limits}
}

// mirrorWorld is a route with a primary backend, which answers with the length of what it read, and a mirror backend,
// which the test serves.
type mirrorWorld struct {
	t       *testing.T
	w       *world
	client  *lab.Pod // nil: a client of the Gateway
	at      string
	gateway uint16 // the Gateway's port
	mirror  *lab.Pod
}

func newMirrorWorld(t *testing.T, cfg Config, gateway bool, copies model.MTLSMode) *mirrorWorld {
	pods := labPods(t, "a", "b", "c")
	m := &mirrorWorld{t: t, w: newWorld(t, cfg), at: "127.0.0.1:15001", mirror: pods[2]}
	w := m.w
	caller := workload(pods[0], "shop", copies, nil)
	primary, mirror := workload(pods[1], "shop", model.MTLSDisabled, nil), workload(pods[2], "shop", copies, nil)
	put(w, w.st.Workloads, caller, primary, mirror)
	for _, wl := range []*model.Workload{caller, mirror} {
		if wl.Identity != "" {
			put(w, w.st.SVIDs, w.ca.svid(wl.Identity))
		}
	}
	counts(t, pods[1], 8080)
	loopbackService(w, "echo", endpointOf(primary, 0, 8080))
	put(w, w.st.Services, &model.Service{Namespace: "shop", Name: "copies", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP}}})
	put(w, w.st.Endpoints, &model.Endpoints{Service: "shop/copies", Port: 80, Protocol: model.TCP, Backends: []model.Endpoint{endpointOf(mirror, 0, 8080)}})
	if !gateway {
		m.client = pods[0]
		return m
	}
	m.gateway = freePort(t)
	m.at = fmt.Sprintf("127.0.0.1:%d", m.gateway)
	if copies == model.MTLSStrict {
		id := identity("shop", "gw")
		put(w, w.st.SVIDs, w.ca.svid(id))
	}
	return m
}

// mirrored sets the route, with a mirror or without one, and waits until an Envoy that runs has it.
func (m *mirrorWorld) mirrored(on, envoyRuns bool) {
	rule := model.Rule{Backends: []model.Backend{{Namespace: "shop", Name: "echo", Port: PortHTTP, Weight: 1}}}
	if on {
		rule.Mirrors = []model.Mirror{{Backend: to("copies", 1), Numerator: 100, Denominator: 100}}
	}
	w := m.w
	name := model.ServiceTable("shop", "echo", PortHTTP)
	if m.gateway != 0 {
		name = model.GatewayTable("shop", "gw", m.gateway, "")
		put(w, w.st.Gateways, &model.Gateway{
			Namespace: "shop", Name: "gw", Identity: m.gatewayIdentity(), Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
			Ports: []model.GatewayPort{{Port: m.gateway, Listeners: []model.GatewayListener{{Name: "http", RouteTable: name}}}},
		})
	}
	put(w, w.st.RouteTables, &model.RouteTable{Name: name, VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{rule}}}})
	if on && envoyRuns {
		until(m.t, "Envoy has the mirror", func() error {
			if !w.accepted(TypeRoute, name) && !w.accepted(TypeRoute, name+plainSuffix) {
				return fmt.Errorf("%s is not accepted", name)
			}
			return nil
		})
	}
}

func (m *mirrorWorld) gatewayIdentity() model.Identity {
	for s := range m.w.st.SVIDs.All(m.w.st.Snapshot()) {
		if s.Identity == identity("shop", "gw") {
			return s.Identity
		}
	}
	return ""
}

func (m *mirrorWorld) wants(succeeded, n int) {
	m.t.Helper()
	if succeeded != n {
		m.t.Errorf("%d of %d uploads succeeded", succeeded, n)
	}
}

// frees waits until Envoy holds no copies. The connections that carried them stay in its pool: over HBONE one has 128 KiB
// at its two ends.
func (m *mirrorWorld) frees(e *envoy, before uint64) {
	m.t.Helper()
	const kept = mirrorRequests * mib / 4
	until(m.t, "Envoy frees what the copies took", func() error {
		if now := allocated(m.t, e); now > before+kept {
			return fmt.Errorf("%d MiB allocated, %d MiB before", now/mib, before/mib)
		}
		return nil
	})
}

// load uploads bodies of a size in parallel. It returns how many uploads were answered as they must be, and the most that Envoy
// allocated meanwhile, in bytes.
func (m *mirrorWorld) load(e *envoy, h2 bool, uploads int, size int64) (succeeded int, peak uint64) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 3*time.Minute)
	defer cancel()
	stop := make(chan struct{})
	var sampler sync.WaitGroup
	sampler.Go(func() {
		for {
			peak = max(peak, allocated(m.t, e))
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	results := make(chan error, uploads)
	client := m.httpClient(h2)
	defer client.CloseIdleConnections() // Envoy keeps buffers for them
	failed := 0
	for range uploads {
		go func() { results <- upload(ctx, client, "http://"+m.at+"/", size) }()
	}
	for range uploads {
		err := <-results
		if err == nil {
			succeeded++
		} else if failed++; failed <= 3 { // the first few tell enough
			m.t.Log(err)
		}
	}
	close(stop)
	sampler.Wait()
	return succeeded, peak
}

func (m *mirrorWorld) httpClient(h2 bool) *http.Client {
	dial := (&net.Dialer{}).DialContext
	if m.client != nil {
		dial = m.client.Dial
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	tr := &http.Transport{DialContext: dial, Protocols: protocols}
	m.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// upload sends a body and expects its length as the answer.
func upload(ctx context.Context, c *http.Client, url string, size int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, io.LimitReader(zeros{}, size))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || strings.TrimSpace(string(body)) != strconv.FormatInt(size, 10)) {
		err = fmt.Errorf("status %d, body %q", resp.StatusCode, body)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// counts answers requests in a pod with the length of their body.
func counts(t *testing.T, p *lab.Pod, port uint16) {
	t.Helper()
	l := listenIn(t, p, netip.AddrPortFrom(p.Address, port))
	s := &http.Server{ReadHeaderTimeout: time.Minute, Protocols: bothProtocols(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// sink accepts connections and reads nothing.
type sink struct {
	mu    sync.Mutex
	conns []net.Conn
}

func hangs(t *testing.T, p *lab.Pod, port uint16) *sink {
	t.Helper()
	l := listenIn(t, p, netip.AddrPortFrom(p.Address, port))
	s := &sink{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range s.conns {
			c.Close()
		}
	})
	return s
}

func (s *sink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// floods answers requests in a pod without end. The function returns how many answers it began, and how many are under
// way.
func floods(t *testing.T, p *lab.Pod, port uint16, chunk int, pause time.Duration) func() (total, now int64) {
	t.Helper()
	l := listenIn(t, p, netip.AddrPortFrom(p.Address, port))
	var total, now atomic.Int64
	s := &http.Server{ReadHeaderTimeout: time.Minute, Protocols: bothProtocols(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		total.Add(1)
		now.Add(1)
		defer now.Add(-1)
		bytes := make([]byte, chunk)
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			time.Sleep(pause)
		}
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return func() (int64, int64) { return total.Load(), now.Load() }
}

// allocated is what Envoy has in use, in bytes.
func allocated(t *testing.T, e *envoy) uint64 {
	var m struct {
		Allocated uint64 `json:"allocated,string"`
	}
	body, err := e.get("/memory")
	if err == nil {
		err = json.Unmarshal([]byte(body), &m)
	}
	if err != nil {
		t.Error(err)
	}
	return m.Allocated
}
