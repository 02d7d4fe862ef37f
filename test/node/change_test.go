package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
)

// restartAgent kills the agent, calls f, and starts another.
func (m *mesh) restartAgent(t *testing.T, f func()) {
	t.Helper()
	if err := m.StopAgent(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f()
	if err := m.StartAgent(); err != nil {
		t.Fatal(err)
	}
	if err := m.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func changes(t *testing.T, m *mesh) {
	t.Run("first and last route", func(t *testing.T) { firstRoute(t, m) })
	t.Run("other endpoints", func(t *testing.T) { swapped(t, m) })
	t.Run("a pod leaves", func(t *testing.T) { leaves(t, m) })
	t.Run("a namespace is deleted", func(t *testing.T) { namespaceGone(t, m) })
	t.Run("the agent is killed", func(t *testing.T) { killed(t, m) })
	t.Run("the next agent takes over", func(t *testing.T) { succeeded(t, m) })
}

// swapped changes a Service's selector back and forth under load on both ways to it.
func swapped(t *testing.T, m *mesh) {
	c := m.Pod("plain", "c")
	m.apply(t, route("plain", "swap", "swap", markedRule("swap")))
	ip := serviceIPs("plain", "swap")[0]
	until(t, "the route", func() error { return routed(c, at(ip, 80), true) })
	kernel, err := load.Start(t.Context(), load.Config{URL: "http://" + at(ip, 90), Dial: c.Dial, Workers: 2, Rate: 100, NewConnections: true, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Stop()
	under(t, load.Config{URL: "http://" + at(ip, 80), Dial: c.Dial}, func() {
		for _, pod := range []string{"s2", "s1", "s2", "s1"} {
			edit(t, m, "mesh/services.yaml", func(s string) string {
				doc := strings.Index(s, "  name: swap\n")
				rest := s[doc:]
				rest = strings.Replace(strings.Replace(rest, "selector: {pod: s1}", "selector: {pod: X}", 1), "selector: {pod: s2}", "selector: {pod: X}", 1)
				return s[:doc] + strings.Replace(rest, "{pod: X}", "{pod: "+pod+"}", 1)
			})
			until(t, "requests reach the other", func() error { return want(c, at(ip, 80), request{path: "/"}, 200, "plain/"+pod) })
			until(t, "connections reach the other", func() error {
				s, err := open(c, at(ip, 70))
				if err != nil {
					return err
				}
				defer s.Close()
				if s.server != "plain/"+pod {
					return errors.New(s.server)
				}
				return nil
			})
		}
	})
}

// firstRoute hands a Service's port to Envoy and takes it back, again and again, under load on connections that are kept
// and on new ones.
func firstRoute(t *testing.T, m *mesh) {
	c := m.Pod("plain", "c")
	at := at(serviceIPs("plain", "swap")[0], 80)
	kept, err := load.Start(t.Context(), load.Config{URL: "http://" + at, Dial: c.Dial, Workers: 4, Rate: 200, Timeout: patience, MaxAge: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Stop()
	under(t, load.Config{URL: "http://" + at, Dial: c.Dial, NewConnections: true, Workers: 4, Rate: 200}, func() {
		for range 5 {
			t.Run("route", func(t *testing.T) {
				m.apply(t, route("plain", "first", "swap", markedRule("swap")))
				until(t, "requests are routed", func() error { return routed(c, at, true) })
			})
			until(t, "requests are not routed", func() error { return routed(c, at, false) })
		}
	})
	if rep := kept.Stop(); rep.Failed > 0 || rep.Requests == 0 {
		t.Errorf("kept connections: %d of %d failed: %v", rep.Failed, rep.Requests, rep.Failures())
	}
}

// markedRule leads to a Service; answers show that they came by it.
func markedRule(service string) string {
	return "    - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-routed, value: here}]}}]\n" +
		"      backendRefs: [{name: " + service + ", port: 80}]\n"
}

func routed(from *lab.Pod, addr string, want bool) error {
	a, err := call(from, addr, request{path: "/"})
	if err != nil {
		return err
	}
	if got := a.header.Get("x-routed") != ""; got != want || a.status != 200 {
		return fmt.Errorf("status %d, routed %v", a.status, got)
	}
	return nil
}

func edit(t *testing.T, m *mesh, file string, change func(string) string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.Manifests(), file))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Write(file, []byte(change(string(text)))); err != nil {
		t.Fatal(err)
	}
}

// leaves takes a pod out of the manifests, then its process away, under load through the kernel, Envoy and mTLS.
func leaves(t *testing.T, m *mesh) {
	c, permC := m.Pod("plain", "c"), m.Pod("perm", "c")
	m.apply(t, route("plain", "leaves", "echo", markedRule("echo")))
	l7, kernel := serviceIPs("plain", "echo")[0], serviceIPs("plain", "l4")[0]
	until(t, "the route", func() error { return routed(c, at(l7, 80), true) })
	running := []*load.Running{}
	for _, cfg := range []load.Config{
		{URL: "http://" + at(kernel, 80), Dial: c.Dial, NewConnections: true},
		{URL: "http://" + at(l7, 80), Dial: permC.Dial, NewConnections: true},
	} {
		cfg.Workers, cfg.Rate, cfg.Timeout = 2, 100, patience
		r, err := load.Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		running = append(running, r)
	}
	file := "mesh/pod-plain-s2.yaml"
	text, err := os.ReadFile(filepath.Join(m.Manifests(), file))
	if err != nil {
		t.Fatal(err)
	}
	under(t, load.Config{URL: "http://" + at(l7, 80), Dial: c.Dial}, func() {
		if err := os.Remove(filepath.Join(m.Manifests(), file)); err != nil {
			t.Fatal(err)
		}
		// A pod that ends gets its grace: it answers until nobody calls it any more.
		b := m.backends["plain/s2"]
		last := -1
		until(t, "nobody calls the pod", func() error {
			n := b.requests("/")
			time.Sleep(300 * time.Millisecond)
			if now := b.requests("/"); now != n || now != last {
				last = now
				return fmt.Errorf("%d requests", now)
			}
			return nil
		})
		b.close()
		time.Sleep(300 * time.Millisecond)
		m.serve(t, "plain", "s2")
		if err := m.Write(file, text); err != nil {
			t.Fatal(err)
		}
		until(t, "it is back", func() error { return want(c, at(l7, 80), request{path: "/"}, 200, "plain/s2") })
	})
	for _, r := range running {
		if rep := r.Stop(); rep.Failed > 0 || rep.Requests == 0 {
			t.Errorf("%d of %d failed: %v", rep.Failed, rep.Requests, rep.Failures())
		}
	}
}

// namespaceGone deletes a strict pod's namespace while Envoy listens and holds connections in it, and makes it again
// with the same name and addresses.
func namespaceGone(t *testing.T, m *mesh) {
	alice, plain, srv := m.Pod("strict", "alice"), m.Pod("plain", "c"), m.Pod("strict", "srv")
	addr := at(serviceIPs("strict", "srv")[0], 70)
	other := load.Config{URL: "http://" + at(serviceIPs("perm", "srv")[0], 80), Dial: alice.Dial, Workers: 2, Rate: 100, NewConnections: true}
	_ = mustOpen(t, alice, addr) // lives on as far as the kernel is told
	under(t, other, func() {
		if err := srv.Remove(); err != nil {
			t.Fatal(err)
		}
		m.backends["strict/srv"].close()
		st, err := m.Proxy.Status(t.Context())
		if err != nil || st.State != "LIVE" {
			t.Errorf("Envoy: %v, %+v", err, st)
		}
		if err := srv.Recreate(); err != nil {
			t.Fatal(err)
		}
		m.serve(t, "strict", "srv")
		until(t, "the pod is in the mesh again", func() error {
			s, err := open(alice, addr)
			if err != nil {
				return err
			}
			defer s.Close()
			return s.echo("again")
		})
	})
	until(t, "it is strict again", func() error { return refused(plain, at(srv.Address, 7070)) })
	for range 5 {
		if err := want(alice, at(serviceIPs("strict", "l7")[1], 80), request{path: "/"}, 200, "strict/srv"); err != nil {
			t.Error(err)
		}
	}
	if out, code := m.weft(t, "status"); code != 0 {
		t.Errorf("weft status: exit %d: %s", code, out)
	}
}

// killed changes manifests while no agent is there.
func killed(t *testing.T, m *mesh) {
	c, alice := m.Pod("plain", "c"), m.Pod("strict", "alice")
	routed := at(serviceIPs("plain", "echo")[0], 80)
	m.apply(t, route("plain", "killed", "echo", "    - backendRefs: [{name: s1, port: 80}]\n"))
	until(t, "the route", func() error { return want(c, routed, request{path: "/"}, 200, "plain/s1") })
	strict, err := load.Start(t.Context(), load.Config{URL: "http://" + at(serviceIPs("strict", "srv")[0], 80), Dial: alice.Dial, Workers: 2, Rate: 100, NewConnections: true, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	under(t, load.Config{URL: "http://" + routed, Dial: c.Dial}, func() {
		m.restartAgent(t, func() {
			m.apply(t, route("plain", "killed", "echo", "    - backendRefs: [{name: s2, port: 80}]\n"))
		})
		until(t, "the change is taken", func() error { return want(c, routed, request{path: "/"}, 200, "plain/s2") })
	})
	if r := strict.Stop(); r.Failed > 0 || r.Requests == 0 {
		t.Errorf("mTLS: %d of %d failed: %v", r.Failed, r.Requests, r.Failures())
	}
}

// succeeded starts agents while another runs, under load on every way, and changes a route and endpoints meanwhile.
func succeeded(t *testing.T, m *mesh) {
	c, alice := m.Pod("plain", "c"), m.Pod("strict", "alice")
	routed := at(serviceIPs("plain", "echo")[0], 80)
	m.apply(t, route("plain", "taken", "echo", "    - backendRefs: [{name: s1, port: 80}]\n"))
	until(t, "the route", func() error { return want(c, routed, request{path: "/"}, 200, "plain/s1") })
	var running []*load.Running
	for _, cfg := range []load.Config{
		{URL: "http://" + at(serviceIPs("strict", "srv")[0], 80), Dial: alice.Dial, NewConnections: true},
		{URL: "http://" + at(serviceIPs("plain", "l4")[0], 80), Dial: c.Dial, NewConnections: true},
	} {
		cfg.Workers, cfg.Rate, cfg.Timeout = 2, 100, patience
		r, err := load.Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		running = append(running, r)
	}
	under(t, load.Config{URL: "http://" + routed, Dial: c.Dial}, func() {
		for i := range 3 {
			first, pod := m.AgentEnded(), fmt.Sprintf("s%d", 2-i%2)
			if err := m.StartAgent(); err != nil {
				t.Fatal(err)
			}
			m.apply(t, route("plain", "taken", "echo", "    - backendRefs: [{name: "+pod+", port: 80}]\n"))
			if err := m.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			select {
			case <-first:
			case <-time.After(patience):
				t.Error("the agent that another took over from still runs")
			}
			until(t, "the change is taken", func() error { return want(c, routed, request{path: "/"}, 200, "plain/"+pod) })
		}
	})
	for _, r := range running {
		if rep := r.Stop(); rep.Failed > 0 || rep.Requests == 0 {
			t.Errorf("%d of %d failed: %v", rep.Failed, rep.Requests, rep.Failures())
		}
	}
}
