package node

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/lab"
)

// tcpRoute is a TCPRoute for the port for bytes of a Service of its namespace.
func tcpRoute(namespace, name, service, backends string) string {
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: %s, namespace: %s}
spec:
  parentRefs: [{group: "", kind: Service, name: %s, port: 70}]
  rules: [{backendRefs: [%s]}]
`, name, namespace, service, backends)
}

// divisions: a TCPRoute divides the connections to a Service in the kernel, by weight, and what it leads to is authenticated as
// without it.
func divisions(t *testing.T, m *mesh) {
	c := m.Pod("plain", "c")
	count := func(addr string) map[string]int {
		t.Helper()
		n := map[string]int{}
		for range 200 {
			s, err := open(c, addr)
			if err != nil {
				n["refused"]++
				continue
			}
			n[s.server]++
			_ = s.Close()
		}
		return n
	}
	for _, ip := range serviceIPs("plain", "l4") {
		t.Run(ip.String(), func(t *testing.T) {
			addr := at(ip, 70)
			m.apply(t, tcpRoute("plain", "split", "l4", "{name: s2, port: 70}"))
			until(t, "the route is taken", func() error {
				if n := count(addr); n["plain/s2"] != 200 {
					return fmt.Errorf("connections went to %v", n)
				}
				return nil
			})
			before := mustOpen(t, c, addr)
			m.apply(t, tcpRoute("plain", "split", "l4", "{name: s1, port: 70, weight: 3}, {name: s2, port: 70}, {name: nobody, port: 70, weight: 4}"))
			until(t, "the share of a backend that is not there is refused", func() error { return refused(c, addr) })
			n := count(addr)
			// Of 200 picks 75, 25 and 100: six standard deviations.
			if n["plain/s1"] < 34 || n["plain/s1"] > 116 || n["plain/s2"] < 1 || n["plain/s2"] > 54 || n["refused"] < 58 || n["refused"] > 142 {
				t.Errorf("200 connections were divided as %v", n)
			}
			if err := before.echo("still here"); err != nil {
				t.Errorf("a connection from before: %v", err)
			}
			out, _ := m.weft(t, "describe", "service", "plain/l4")
			if !strings.Contains(out, "TCPRoute/plain/split") {
				t.Errorf("weft describe does not name the route: %s", out)
			}
			out, _ = m.weft(t, "explain", "--from", "plain/c", "--to", "plain/l4:70")
			if !strings.Contains(out, "TCPRoute/plain/split") || !strings.Contains(out, "plain/s1") {
				t.Errorf("weft explain does not name the route and where it leads: %s", out)
			}
		})
	}
	t.Run("strict", func(t *testing.T) { strictDivision(t, m, c) })
	t.Run("for callers of another namespace", func(t *testing.T) { callersDivision(t, m, c) })
	until(t, "without the route the Service is as it was", func() error {
		if n := count(at(serviceIPs("plain", "l4")[0], 70)); n["refused"] > 0 || n["plain/s1"] == 0 || n["plain/s2"] == 0 {
			return fmt.Errorf("connections went to %v", n)
		}
		return nil
	})
}

func strictDivision(t *testing.T, m *mesh, plain *lab.Pod) {
	alice, srv := m.Pod("strict", "alice"), m.Pod("strict", "srv")
	m.apply(t, tcpRoute("strict", "to-srv", "open", "{name: srv, port: 70}"))
	addr := at(serviceIPs("strict", "open")[0], 70)
	reaches := func() error {
		s, err := open(alice, addr)
		if err != nil {
			return err
		}
		defer s.Close()
		if s.server != "strict/srv" {
			return fmt.Errorf("%s answers", s.server)
		}
		return s.echo("hello")
	}
	until(t, "the route is taken", reaches)
	onlyTLS(t, alice, srv, reaches)
	if err := refused(plain, addr); err != nil {
		t.Errorf("a caller without an identity is let in: %v", err)
	}
}

// callersDivision: a TCPRoute of another namespace than the Service's is for the callers of that namespace.
func callersDivision(t *testing.T, m *mesh, plain *lab.Pod) {
	alice, addr := m.Pod("strict", "alice"), at(serviceIPs("plain", "l4")[0], 70)
	m.apply(t, tcpRoute("plain", "split", "l4", "{name: s1, port: 70}")+`---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: own, namespace: strict}
spec:
  parentRefs: [{group: "", kind: Service, name: l4, namespace: plain, port: 70}]
  rules: [{backendRefs: [{name: s2, namespace: plain, port: 70}]}]
`)
	for from, want := range map[*lab.Pod]string{plain: "plain/s1", alice: "plain/s2"} {
		for range 20 {
			until(t, "the route of the caller's namespace is taken", func() error {
				s, err := open(from, addr)
				if err != nil {
					return err
				}
				defer s.Close()
				if s.server != want {
					return fmt.Errorf("%s is answered by %s, want %s", from.Name, s.server, want)
				}
				return nil
			})
		}
	}
	if out, _ := m.weft(t, "explain", "--from", "strict/alice", "--to", "plain/l4:70"); !strings.Contains(out, "TCPRoute/strict/own") {
		t.Errorf("weft explain does not name the route: %s", out)
	}
	if out, _ := m.weft(t, "describe", "service", "plain/l4"); !strings.Contains(out, "for callers in strict") {
		t.Errorf("weft describe does not name the callers: %s", out)
	}
}
