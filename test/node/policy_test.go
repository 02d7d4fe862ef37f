package node

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/capture"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/load"
)

// drained is longer than Envoy keeps connections whose listener changed (proxyDrainTime), so that those that
// are to live are seen to. It is longer, too, than the second within which the agent ends connections that a narrower policy forbids:
// it ends the tunnel that all connections between two pods share.
const drained = 3 * time.Second

// policy is an AuthorizationPolicy for guard/srv.
func policy(rules string) string {
	return `apiVersion: weft.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: srv, namespace: guard}
spec:
  targetRefs: [{kind: Service, name: srv}]
  action: ALLOW
  rules:
` + rules
}

const (
	fromAlice = "    - sources: [{type: ServiceAccount, serviceAccount: {name: alice, namespace: strict}}]\n"
	fromBob   = "    - sources: [{type: SPIFFE, spiffe: spiffe://cluster.local/ns/strict/sa/bob}]\n"
)

func policies(t *testing.T, m *mesh) {
	alice, bob, permC, plain := m.Pod("strict", "alice"), m.Pod("strict", "bob"), m.Pod("perm", "c"), m.Pod("plain", "c")
	everybody := []*lab.Pod{alice, bob, permC, plain}
	srv := m.Pod("guard", "srv")
	for _, c := range []struct {
		name, rules string
		port        uint16
		allowed     []*lab.Pod
	}{
		{"by service account", fromAlice, 7070, []*lab.Pod{alice}},
		{"by SPIFFE ID", fromBob, 7070, []*lab.Pod{bob}},
		{"by namespace", "    - sources: [{type: Namespace, namespace: strict}]\n", 7070, []*lab.Pod{alice, bob}},
		{"by port, for anybody", "    - networkAttributes: {ports: [7070]}\n", 7070, everybody},
		{"another port", "    - networkAttributes: {ports: [8080]}\n", 7070, nil},
		{"by port and namespace", "    - sources: [{type: Namespace, namespace: perm}]\n      networkAttributes: {ports: [7070]}\n", 7070, []*lab.Pod{permC}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.apply(t, policy(c.rules))
			for _, ip := range both(srv) {
				for _, from := range everybody {
					until(t, from.Name, func() error {
						for _, a := range c.allowed {
							if a == from {
								s, err := open(from, at(ip, c.port))
								if err == nil {
									_ = s.Close()
								}
								return err
							}
						}
						return refused(from, at(ip, c.port))
					})
				}
			}
		})
	}
	t.Run("by request", func(t *testing.T) { byRequest(t, m, everybody) })
	t.Run("bytes beside requests", func(t *testing.T) { bytesBesideRequests(t, m) })
	t.Run("live connections", func(t *testing.T) { liveConnections(t, m) })
	t.Run("live requests", func(t *testing.T) { liveRequests(t, m) })
	t.Run("the first policy", func(t *testing.T) { firstPolicy(t, m) })
	t.Run("in force", func(t *testing.T) { inForce(t, m) })
	t.Run("changed while the agent was away", func(t *testing.T) { changedAway(t, m) })
}

// bytesBesideRequests: a policy looks at requests on one port. Bytes to another port go as if it did not.
func bytesBesideRequests(t *testing.T, m *mesh) {
	alice, srv := m.Pod("strict", "alice"), m.Pod("guard", "srv")
	m.apply(t, policy("    - networkAttributes: {ports: [8080]}\n      http: [{methods: [GET]}]\n    - networkAttributes: {ports: [7070]}\n"))
	for i, ip := range both(srv) {
		until(t, "bytes", func() error {
			c, err := capture.Start(srv.HostLink)
			if err != nil {
				return err
			}
			s, err := open(alice, at(ip, 7070))
			if err == nil {
				err = s.echo("beside requests")
				_ = s.Close()
			}
			wire, cerr := c.Stop()
			if err = errors.Join(err, cerr); err != nil {
				return err
			}
			ports := wire.Between(both(alice)[i], ip)
			for port, n := range ports {
				if n > 0 && port != m.bytesPort {
					err = errors.Join(err, fmt.Errorf("%d bytes at port %d", n, port))
				}
			}
			if ports[m.bytesPort] == 0 {
				err = errors.Join(err, fmt.Errorf("nothing at port %d", m.bytesPort))
			}
			return err
		})
		for method, status := range map[string]int{"GET": 200, "POST": 403} {
			until(t, method, func() error { return want(alice, at(ip, 8080), request{path: "/", method: method}, status, "") })
		}
	}
}

// byRequest: alice may GET below /a; anybody may GET /public.
func byRequest(t *testing.T, m *mesh, everybody []*lab.Pod) {
	m.apply(t, policy(fromAlice+`      http: [{methods: [GET], paths: [{type: PathPrefix, value: /a}]}]
    - http: [{methods: [GET], paths: [{type: Exact, value: /public}]}]
`))
	alice := everybody[0]
	for _, from := range everybody {
		a := 403
		if from == alice {
			a = 200
		}
		for _, r := range []struct {
			request
			status int
		}{
			{request{path: "/a/x"}, a}, {request{path: "/a"}, a}, {request{path: "/ab"}, 403}, {request{path: "/b/../a"}, a},
			{request{path: "/a/../b"}, 403}, {request{path: "/a/x", method: "POST"}, 403}, {request{path: "/public"}, 200},
			{request{path: "/public/x"}, 403}, {request{path: "/a", http2: true}, a},
		} {
			for i, ip := range both(m.Pod("guard", "srv")) {
				for _, addr := range []string{at(ip, 8080), at(serviceIPs("guard", "srv")[i], 80), at(serviceIPs("guard", "l7")[i], 80)} {
					until(t, fmt.Sprintf("%s to %s", from.Name, addr), func() error { return want(from, addr, r.request, r.status, "") })
				}
			}
		}
	}
}

// liveConnections: what the new policy forbids is cut, what it allows lives.
func liveConnections(t *testing.T, m *mesh) {
	alice, bob, plain := m.Pod("strict", "alice"), m.Pod("strict", "bob"), m.Pod("plain", "c")
	srv := m.Pod("guard", "srv")
	m.apply(t, policy(fromAlice+fromBob+"    - networkAttributes: {ports: [7070, 8080]}\n"))
	for _, ip := range both(srv) {
		until(t, "the policy is in force", func() error { return refused(plain, at(ip, 9090)) })
	}
	// Tunnels from the policy before, which looked at requests, end with the drain of their listener's filter chain.
	time.Sleep(drained)
	var forbidden, allowed []*stream
	for _, ip := range both(srv) {
		forbidden = append(forbidden, mustOpen(t, bob, at(ip, 7070)), mustOpen(t, plain, at(ip, 7070)))
		allowed = append(allowed, mustOpen(t, alice, at(ip, 7070)))
	}
	m.apply(t, policy(fromAlice+"    - networkAttributes: {ports: [8080]}\n"))
	for _, s := range forbidden {
		if err := s.cut(); err != nil {
			t.Errorf("%s: %v", s.client, err)
		}
	}
	for _, ip := range both(srv) {
		for _, from := range []*lab.Pod{bob, plain} {
			if err := refused(from, at(ip, 7070)); err != nil {
				t.Error(err)
			}
		}
	}
	time.Sleep(drained)
	for _, s := range allowed {
		if err := s.echo("still allowed"); err != nil {
			t.Errorf("%s is allowed and was cut: %v", s.client, err)
		}
	}
}

// liveRequests: connections that Envoy keeps between requests do not carry a forbidden one, and allowed ones do not fail.
func liveRequests(t *testing.T, m *mesh) {
	alice, bob := m.Pod("strict", "alice"), m.Pod("strict", "bob")
	l7 := at(serviceIPs("guard", "l7")[0], 80)
	m.apply(t, policy(fromAlice+fromBob))
	until(t, "bob is allowed", func() error { return want(bob, l7, request{path: "/"}, 200, "") })
	until(t, "others are not", func() error { return refused(m.Pod("perm", "c"), at(m.Pod("guard", "srv").Address, 7070)) })
	kept := keepAlive(t, bob, l7)
	if status, err := kept(); err != nil || status != 200 {
		t.Fatal(status, err)
	}
	under(t, load.Config{URL: "http://" + l7, Dial: alice.Dial}, func() {
		m.apply(t, policy(fromAlice))
		until(t, "bob's requests are refused", func() error {
			status, err := kept()
			if err != nil || status == 200 {
				return fmt.Errorf("status %d, %w", status, err)
			}
			return nil
		})
	})
	for range 50 {
		if status, err := kept(); err != nil || status == 200 {
			t.Fatalf("bob gets in again: %d, %v", status, err)
		}
	}
}

// keepAlive makes requests that share the connections of the client's Envoy.
func keepAlive(t *testing.T, from *lab.Pod, addr string) func() (int, error) {
	t.Helper()
	status := 0
	return func() (int, error) {
		status = 0
		_, err := load.Run(t.Context(), load.Config{URL: "http://" + addr, Dial: from.Dial, Requests: 1, Timeout: patience,
			Observe: func(r load.Result) { status = r.Status }})
		return status, err
	}
}

// firstPolicy: a workload that had none; connections in the clear end with it, and authenticated ones that it forbids.
func firstPolicy(t *testing.T, m *mesh) {
	alice, bob, plain := m.Pod("strict", "alice"), m.Pod("strict", "bob"), m.Pod("plain", "c")
	addr := at(m.Pod("guard", "srv").Address, 7070)
	var forbidden []*stream
	until(t, "no policy is left", func() error {
		s, err := open(plain, addr)
		if err == nil {
			forbidden = append(forbidden, s)
		}
		return err
	})
	until(t, "no policy is left in Envoy", func() error { // which hears of its end after the kernel
		s, err := open(bob, addr)
		if err == nil {
			forbidden = append(forbidden, s)
		}
		return err
	})
	allowed := mustOpen(t, alice, addr)
	m.apply(t, policy(fromAlice))
	for _, s := range forbidden {
		if err := s.cut(); err != nil {
			t.Errorf("%s: %v", s.client, err)
		}
	}
	time.Sleep(drained)
	if err := allowed.echo("still allowed"); err != nil {
		t.Errorf("alice is allowed and was cut: %v", err)
	}
}

// changedAway: the next agent sees what became narrower.
func changedAway(t *testing.T, m *mesh) {
	bob, alice := m.Pod("strict", "bob"), m.Pod("strict", "alice")
	addr := at(m.Pod("guard", "srv").Address6, 7070)
	m.apply(t, policy(fromAlice+fromBob))
	until(t, "bob is allowed", func() error {
		s, err := open(bob, addr)
		if err == nil {
			_ = s.Close()
		}
		return err
	})
	until(t, "others are not", func() error { return refused(m.Pod("perm", "c"), addr) })
	forbidden, allowed := mustOpen(t, bob, addr), mustOpen(t, alice, addr)
	m.restartAgent(t, func() { m.apply(t, policy(fromAlice)) })
	if err := forbidden.cut(); err != nil {
		t.Error(err)
	}
	if err := allowed.echo("still allowed"); err != nil {
		t.Errorf("alice is allowed and was cut: %v", err)
	}
	if err := refused(bob, addr); err != nil && !strings.Contains(err.Error(), net.ErrClosed.Error()) {
		t.Error(err)
	}
}
