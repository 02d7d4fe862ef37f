package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/observe"
)

// namedServices are Services of backends that speak TLS, and the address of the one that has the routes.
const (
	namedServices = `---
apiVersion: v1
kind: Service
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  clusterIP: 10.97.1.%[3]d
  clusterIPs: ["10.97.1.%[3]d", "fd97::1:%[3]d"]
  ipFamilyPolicy: RequireDualStack
  selector: {pod: %[4]s}
  ports: [{port: 443, targetPort: 8443}]
`
	named4, named6 = "10.97.1.1:443", "[fd97::1:1]:443"
)

func tlsRoute(namespace, name, hostname, backends string) string {
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: %s, namespace: %s}
spec:
  parentRefs: [{group: "", kind: Service, name: named, namespace: plain, port: 443}]
  hostnames: ["%s"]
  rules: [{backendRefs: [%s]}]
`, name, namespace, hostname, backends)
}

// handshake asks by TLS for a name at an address, and returns who answered.
func handshake(from *lab.Pod, roots *x509.CertPool, addr, name string) (string, error) {
	return getTLS(from, roots, addr+"/", name)
}

func getTLS(from *lab.Pod, roots *x509.CertPool, url, name string) (string, error) {
	tr := &http.Transport{
		DialContext: from.Dial, DisableKeepAlives: true,
		// Go sends no server name if it is an address.
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name},
	}
	defer tr.CloseIdleConnections()
	// A connection that was made before the Service was there gets no answer.
	r, err := (&http.Client{Transport: tr, Timeout: patience / 10}).Get("https://" + url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return string(body), err
}

// names: TLSRoutes divide the connections to a Service by their server name. What they lead to is authenticated as without them.
func names(t *testing.T, m *mesh) {
	ca := newAuthority(t, "names")
	cert := ca.issue(t, "*.example")
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	services := ""
	for i, s := range [][3]string{{"plain", "named", "s1"}, {"plain", "tls-s1", "s1"}, {"plain", "tls-s2", "s2"}, {"strict", "tls-srv", "srv"}} {
		services += fmt.Sprintf(namedServices, s[0], s[1], i+1, s[2])
	}
	for _, p := range [][2]string{{"plain", "s1"}, {"plain", "s2"}, {"strict", "srv"}} {
		m.serveTLS(t, p[0], p[1], cert)
	}
	c := m.Pod("plain", "c")
	reaches := func(from *lab.Pod, addr, name, pod string) error {
		got, err := handshake(from, roots, addr, name)
		if err == nil && got != pod+" sni="+name {
			err = fmt.Errorf("%s: %q answers, want %s", name, got, pod)
		}
		return err
	}
	two := tlsRoute("plain", "a", "a.example", "{name: tls-s1, port: 443}") + tlsRoute("plain", "others", "*.example", "{name: tls-s2, port: 443}")
	m.apply(t, services+two)
	for _, addr := range []string{named4, named6} {
		until(t, "the routes are taken", func() error {
			return errors.Join(reaches(c, addr, "a.example", "plain/s1"), reaches(c, addr, "b.example", "plain/s2"))
		})
		for _, refused := range []string{"a.other", "example", ""} {
			if err := closedAfterHello(t, c, addr, refused); err != nil {
				t.Errorf("%s, server name %q: %v", addr, refused, err)
			}
		}
	}
	// The server ends the connection after its answer.
	for range 20 {
		if got, err := getTLS(c, roots, named4+"/large", "a.example"); err != nil || len(got) < largeAnswer {
			t.Errorf("%d bytes of a large answer: %v", len(got), err)
		}
	}
	if out, _ := m.weft(t, "describe", "service", "plain/named"); !strings.Contains(out, "TLSRoute/plain/others") || !strings.Contains(out, "*.example") {
		t.Errorf("weft describe does not name the routes: %s", out)
	}
	t.Run("flows", func(t *testing.T) {
		namedFlow(t, m, "plain/c", observe.L4, func() error { return reaches(c, named4, "a.example", "plain/s1") })
	})
	t.Run("not TLS", func(t *testing.T) { notTLS(t, c) })
	t.Run("in pieces", func(t *testing.T) { helloInPieces(t, c, roots) })
	t.Run("weights", func(t *testing.T) { namedWeights(t, m, c, roots, services) })
	t.Run("strict", func(t *testing.T) {
		alice, srv := m.Pod("strict", "alice"), m.Pod("strict", "srv")
		m.apply(t, services+tlsRoute("plain", "a", "a.example", "{name: tls-srv, namespace: strict, port: 443}"))
		reached := func() error { return reaches(alice, named4, "a.example", "strict/srv") }
		until(t, "the route is taken", reached)
		onlyTLS(t, alice, srv, reached)
		namedFlow(t, m, "strict/alice", observe.MTLS, reached)
		if got, err := handshake(c, roots, named4, "a.example"); err == nil {
			t.Errorf("a caller without an identity is let in: %s", got)
		}
	})
	t.Run("for callers of another namespace", func(t *testing.T) {
		m.apply(t, services+tlsRoute("strict", "own", "a.example", "{name: tls-s2, namespace: plain, port: 443}"))
		alice := m.Pod("strict", "alice")
		until(t, "the route is taken", func() error { return reaches(alice, named4, "a.example", "plain/s2") })
		if err := errors.Join(reaches(c, named4, "a.example", "plain/s1"), reaches(c, named4, "b.example", "plain/s2")); err != nil {
			t.Errorf("callers of other namespaces: %v", err)
		}
		if err := closedAfterHello(t, alice, named4, "b.example"); err != nil {
			t.Errorf("a name that the namespace's own route does not have: %v", err)
		}
	})
	m.apply(t, services)
	until(t, "without the routes the Service is as it was", func() error { return reaches(c, named4, "b.example", "plain/s1") })
}

// namedFlow: a connection to a Service that goes by its server name is one flow at its source, with the route, the Service and the
// endpoint. After it a request to Envoy of which no name is passed on is waited for: its flow comes last.
func namedFlow(t *testing.T, m *mesh, pod string, layer observe.Layer, reach func() error) {
	t.Helper()
	from := m.Pod(strings.Split(pod, "/")[0], strings.Split(pod, "/")[1])
	since := time.Now()
	if err := reach(); err != nil {
		t.Fatal(err)
	}
	until(t, "a flow with the route, and that of a connection without one", func() error {
		if err := closedAfterHello(t, from, named4, "a.other"); err != nil {
			return err
		}
		var named, others []observe.Flow
		err := m.API.Flows(t.Context(), api.FlowQuery{}, func(e observe.Event) error {
			f := e.Flow
			switch {
			case f == nil || f.Open || f.Time.Before(since) || f.SeenAt != observe.AtSource || f.Source.Workload != pod || f.Destination.Service != "plain/named":
			case f.Route != "" || f.Received > 500: // a certificate came back
				named = append(named, *f)
			default:
				others = append(others, *f)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(named) == 0 || len(others) == 0 {
			return fmt.Errorf("%d flows with the route, %d without", len(named), len(others))
		}
		if f := named[0]; len(named) != 1 || f.Route != "TLSRoute/plain/a" || f.Layer != layer || f.Destination.Workload == "" {
			t.Fatalf("%d flows of one connection: %+v", len(named), named)
		}
		return nil
	})
	if out, _ := m.weft(t, "observe", "--last", "0", "--from", pod, "--to", "plain/named"); !strings.Contains(out, " (plain/named)  TLSRoute/plain/a, ") {
		t.Errorf("weft observe does not name the route:\n%s", out)
	}
}

// closedAfterHello sends a ClientHello with a server name, and wants the end.
func closedAfterHello(t *testing.T, from *lab.Pod, addr, name string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	err = tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).HandshakeContext(ctx)
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(errors.New("the connection was not closed"), err)
	}
	return nil
}

// notTLS: the route says that the port speaks TLS. Other bytes are not let through, and a connection that ends at once ends.
func notTLS(t *testing.T, from *lab.Pod) {
	for _, first := range []string{"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "hello\r\n", ""} {
		c := mustDial(t, from, named4)
		if _, err := io.WriteString(c, first); err != nil {
			t.Fatal(err)
		}
		if first == "" {
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := io.ReadAll(c); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q is answered %q, %v; want the end", first, got, err)
		}
	}
}

// pieces writes a byte at a time.
type pieces struct{ net.Conn }

func (p pieces) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := p.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func helloInPieces(t *testing.T, from *lab.Pod, roots *x509.CertPool) {
	c := mustDial(t, from, named4)
	// With many protocols the ClientHello has some 8 KiB.
	protocols := strings.Split(strings.Repeat(strings.Repeat("p", 200)+" ", 40)+"http/1.1", " ")
	if err := tls.Client(pieces{c}, &tls.Config{RootCAs: roots, ServerName: "a.example", NextProtos: protocols}).HandshakeContext(t.Context()); err != nil {
		t.Error(err)
	}
}

// namedWeights: the share of a backend that is not there is closed, and a connection from before stays.
func namedWeights(t *testing.T, m *mesh, c *lab.Pod, roots *x509.CertPool, services string) {
	before, err := c.Dial(t.Context(), "tcp", named4)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	open := tls.Client(before, &tls.Config{RootCAs: roots, ServerName: "a.example"})
	if err := open.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.apply(t, services+tlsRoute("plain", "a", "a.example",
		"{name: tls-s1, port: 443, weight: 3}, {name: tls-s2, port: 443}, {name: nobody, port: 1, weight: 4}"))
	count := func(calls int) map[string]int {
		n := map[string]int{}
		for range calls {
			who, err := handshake(c, roots, named4, "a.example")
			if err != nil {
				who = "closed"
			}
			n[strings.TrimSuffix(who, " sni=a.example")]++
		}
		return n
	}
	until(t, "the weights are taken", func() error {
		if n := count(10); n["closed"] == 0 || n["plain/s1"] == 0 {
			return fmt.Errorf("connections went to %v", n)
		}
		return nil
	})
	// Of 200 picks 75, 25 and 100: six standard deviations.
	n := count(200)
	if n["plain/s1"] < 34 || n["plain/s1"] > 116 || n["plain/s2"] < 1 || n["plain/s2"] > 54 || n["closed"] < 58 || n["closed"] > 142 {
		t.Errorf("200 connections were divided as %v", n)
	}
	_ = open.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(open, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(open); !strings.Contains(string(got), "plain/s1 sni=a.example") {
		t.Errorf("a connection from before: %q, %v", got, err)
	}
}
