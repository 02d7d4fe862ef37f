package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/observe"
)

// detectedService selects a server by two ports that do not say what they speak, with a route that names no port.
const detectedService = `apiVersion: v1
kind: Service
metadata: {name: unknown, namespace: %[1]s}
spec: {clusterIP: %[2]s, selector: {app: %[3]s}, ports: [{name: web, port: 80, targetPort: 8080}, {name: wire, port: 70, targetPort: 7070}, {name: sink, port: 71, targetPort: 7171}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: unknown, namespace: %[1]s}
spec:
  parentRefs: [{group: "", kind: Service, name: unknown}]
  rules:
  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: routed, value: "yes"}]}}]
    backendRefs: [{name: unknown, port: 80}]
`

// detection compares what a Service of which nobody knows what it speaks does with what the pod does: in the clear, and between
// strict pods, which refuse what is not authenticated.
func detection(t *testing.T, m *mesh) {
	for _, c := range []struct {
		namespace, client, server, address string
	}{{"plain", "c", "s1", "10.97.9.1"}, {"strict", "alice", "srv", "10.97.9.2"}} {
		t.Run(c.namespace, func(t *testing.T) {
			client, server := m.Pod(c.namespace, c.client), m.Pod(c.namespace, c.server)
			app := c.server
			if c.namespace == "plain" {
				app = "echo" // its two pods serve alike
			}
			m.apply(t, fmt.Sprintf(detectedService, c.namespace, c.address, app))
			until(t, "the Service", func() error { // a SYN to an address that nobody has is lost
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				s, err := client.Dial(ctx, "tcp", c.address+":80")
				if err == nil {
					_ = s.Close()
				}
				return err
			})
			until(t, "the route", func() error {
				a, err := call(client, c.address+":80", request{path: "/"})
				if err == nil && a.header.Get("routed") != "yes" {
					err = fmt.Errorf("status %d, %v", a.status, a.header)
				}
				return err
			})
			t.Run("requests", func(t *testing.T) { detectedRequests(t, client, c.address+":80", at(server.Address, 8080)) })
			t.Run("bytes", func(t *testing.T) { detectedBytes(t, client, c.address+":70", at(server.Address, 7070)) })
			t.Run("flows", func(t *testing.T) { detectedFlows(t, m, client, c.namespace+"/"+c.client, c.address) })
			t.Run("ends", func(t *testing.T) {
				sink := newSink(t, m, c.namespace, app)
				sink.ends(t, client, c.address+":71", at(server.Address, 7171))
			})
		})
	}
}

// detectedRequests sends requests to a Service, and to a pod behind it.
func detectedRequests(t *testing.T, client *lab.Pod, service, pod string) {
	get := "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"
	for _, test := range []struct {
		name   string
		pause  time.Duration // before each part
		parts  []string
		routed bool
	}{
		{"HTTP/1.1", 0, []string{get}, true},
		{"HTTP/1.0", 0, []string{"GET / HTTP/1.0\r\nHost: web\r\n\r\n"}, true},
		{"any method", 0, []string{strings.Replace(get, "GET", "LIST", 1)}, true},
		{"a byte at a time", 0, strings.Split(get, ""), true},
		// The server ends the connection after its answer, which must not be lost.
		{"silence before the request", 700 * time.Millisecond, []string{get}, false},
		{"silence within the request line", 700 * time.Millisecond, []string{get[:8], get[8:]}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, to := range []string{pod, service} {
				status, header, err := rawRequest(client, to, test.pause, test.parts)
				if err != nil || status != http.StatusOK {
					t.Errorf("%s: status %d, %v", to, status, err)
				}
				if routed := header.Get("routed") == "yes"; routed != (test.routed && to == service) {
					t.Errorf("%s: by the route: %t", to, routed)
				}
			}
		})
	}
	t.Run("HTTP/2", func(t *testing.T) {
		a, err := call(client, service, request{path: "/", http2: true})
		if err != nil || a.status != http.StatusOK || a.header.Get("routed") != "yes" {
			t.Errorf("status %d, %v, %v", a.status, a.header, err)
		}
	})
}

func rawRequest(from *lab.Pod, to string, pause time.Duration, parts []string) (int, http.Header, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", to)
	if err != nil {
		return 0, nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	for _, p := range parts {
		time.Sleep(pause)
		if _, err := io.WriteString(c, p); err != nil {
			return 0, nil, err
		}
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, nil, err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return r.StatusCode, r.Header, err
}

// detectedBytes speaks with a server that greets, and sees the client's own address both ways.
func detectedBytes(t *testing.T, client *lab.Pod, service, pod string) {
	for _, to := range []string{pod, service} {
		for _, first := range []string{"", "\x16\x03\x01\n", "get key\n", "GET"} {
			t.Run(fmt.Sprintf("%s %q", to, first), func(t *testing.T) {
				t.Parallel()
				c := mustDial(t, client, to)
				if _, err := io.WriteString(c, first); err != nil {
					t.Fatal(err)
				}
				in := bufio.NewReader(c)
				greeting, err := in.ReadString('\n')
				if err != nil || !strings.Contains(greeting, client.Address.String()) {
					t.Fatalf("greeted as %q, %v", greeting, err)
				}
				if _, err := io.WriteString(c, "more\n"); err != nil {
					t.Fatal(err)
				}
				want := first + "more\n"
				got := make([]byte, len(want))
				if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
					t.Errorf("%q came back, %v, want %q", got, err, want)
				}
			})
		}
	}
}

// detectedFlows: a connection that is passed on as bytes is one flow of the source's, with the endpoint. A request afterwards
// shows when the flow of its own connection is there, and so would be one of the first. Proxies may report others, of tests that
// are over, after it: these sent less.
func detectedFlows(t *testing.T, m *mesh, client *lab.Pod, pod, address string) {
	const much = 10_000
	since := time.Now()
	c := mustOpen(t, client, address+":70")
	if err := c.echo(strings.Repeat("x", much)); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	until(t, "the flow of a connection that speaks HTTP", func() error {
		if status, _, err := rawRequest(client, address+":80", 0, []string{"GET / HTTP/1.0\r\nHost: web\r\n\r\n"}); err != nil || status != http.StatusOK {
			return fmt.Errorf("status %d, %w", status, err)
		}
		var bytes, toEnvoy []*observe.Flow
		err := m.API.Flows(t.Context(), api.FlowQuery{}, func(e observe.Event) error {
			f := e.Flow
			switch {
			case f == nil || f.Open || f.HTTP != nil || f.Time.Before(since) || f.SeenAt != observe.AtSource || f.Source.Workload != pod:
			case f.Sent >= much:
				bytes = append(bytes, f)
			case f.Destination.Address.String() == address+":80":
				toEnvoy = append(toEnvoy, f)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(toEnvoy) == 0 {
			return errors.New("there is none")
		}
		if len(bytes) != 1 || bytes[0].Layer == observe.L7 || bytes[0].Destination.Workload == "" {
			var seen []observe.Flow
			for _, f := range bytes {
				seen = append(seen, *f)
			}
			t.Fatalf("%d flows of one connection: %+v", len(bytes), seen)
		}
		return nil
	})
}
