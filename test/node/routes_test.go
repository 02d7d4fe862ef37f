package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/weft-mesh/weft/internal/lab"
)

// route is an HTTPRoute on a Service of namespace plain.
func route(namespace, name, service, rules string) string {
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: %s}
spec:
  parentRefs: [{group: "", kind: Service, namespace: plain, name: %s, port: 80}]
  rules:
%s`, name, namespace, service, rules)
}

const routeRules = `
    - matches: [{headers: [{name: x-version, value: two}]}]
      backendRefs: [{name: s2, port: 80}]
    - matches: [{method: PUT}]
      backendRefs: [{name: s2, port: 80}]
    - matches: [{queryParams: [{name: version, value: two}]}]
      backendRefs: [{name: s2, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /old}}]
      filters: [{type: URLRewrite, urlRewrite: {hostname: new.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
      backendRefs: [{name: s2, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /moved}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example, statusCode: 301}}]
    - matches: [{path: {type: PathPrefix, value: /mirrored}}]
      filters: [{type: RequestMirror, requestMirror: {backendRef: {name: s2, port: 80}}}]
      backendRefs: [{name: s1, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /slow}}]
      timeouts: {request: 200ms}
      backendRefs: [{name: s1, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /flaky}}]
      retry: {codes: [503], attempts: 3}
      backendRefs: [{name: s1, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /half}}]
      backendRefs: [{name: s1, port: 80}, {name: nowhere, port: 80}]
    - matches: [{path: {type: PathPrefix, value: /soon}}]
      backendRefs: [{name: later, port: 80}]
    - backendRefs: [{name: s1, port: 80}]
`

func routes(t *testing.T, m *mesh) {
	c := m.Pod("plain", "c")
	t.Run("HTTPRoute", func(t *testing.T) {
		m.apply(t, route("plain", "all", "echo", routeRules))
		for _, ip := range serviceIPs("plain", "echo") {
			addr := at(ip, 80)
			until(t, "the route is taken", func() error { return want(c, addr, request{path: "/soon"}, 500, "") })
			for _, r := range []struct {
				request
				status int
				pod    string
			}{
				{request{path: "/"}, 200, "plain/s1"},
				{request{header: http.Header{"X-Version": {"two"}}}, 200, "plain/s2"},
				{request{method: http.MethodPut}, 200, "plain/s2"},
				{request{path: "/?version=two"}, 200, "plain/s2"},
				{request{path: "/?version=one"}, 200, "plain/s1"},
				{request{path: "/slow?sleep=5s"}, http.StatusGatewayTimeout, ""},
				{request{path: "/slow"}, 200, "plain/s1"},
				{request{path: "/flaky/" + ip.String() + "?fail=2"}, 200, "plain/s1"},
				{request{path: "/soon"}, 500, ""},
				{request{path: "/", http2: true}, 200, "plain/s1"},
			} {
				if err := want(c, addr, r.request, r.status, r.pod); err != nil {
					t.Errorf("%s: %v", addr, err)
				}
			}
			filters(t, m, addr)
		}
	})
	t.Run("a backend that is not there", func(t *testing.T) { missingBackend(t, m, c) })
	t.Run("producer and consumer", func(t *testing.T) { consumers(t, m) })
	t.Run("GRPCRoute", func(t *testing.T) { grpcRoute(t, m, c) })
	t.Run("TCPRoute", func(t *testing.T) { divisions(t, m) })
	t.Run("TLSRoute", func(t *testing.T) { names(t, m) })
	t.Run("refused by Envoy", func(t *testing.T) { nack(t, m, c) })
	t.Run("a route refused by Envoy", func(t *testing.T) { refusedRoute(t, m, c) })
}

// filters: what changes a request or answers it.
func filters(t *testing.T, m *mesh, addr string) {
	c := m.Pod("plain", "c")
	a, err := call(c, addr, request{path: "/old/a?b=c"})
	if err != nil || a.saw.Path != "/new/a" || a.saw.Host != "new.example" || a.saw.Query != "b=c" || a.saw.Pod != "plain/s2" {
		t.Errorf("rewrite: %v, the backend saw %+v", err, a.saw)
	}
	for k := range a.saw.Header {
		if strings.HasPrefix(strings.ToLower(k), "x-weft") || strings.HasPrefix(strings.ToLower(k), "x-envoy") {
			t.Errorf("the backend sees header %s", k)
		}
	}
	if a, err = call(c, addr, request{path: "/moved/x", host: "here.example"}); err != nil || a.status != 301 || a.header.Get("Location") != "http://other.example/moved/x" {
		t.Errorf("redirect: %v, %d %q", err, a.status, a.header.Get("Location"))
	}
	path := "/mirrored/" + strings.NewReplacer(":", "-", "[", "", "]", "").Replace(addr)
	if err := want(c, addr, request{path: path}, 200, "plain/s1"); err != nil {
		t.Error(err)
	}
	until(t, "the mirror gets the request", func() error {
		if n := m.backends["plain/s2"].requests(path); n == 0 {
			return errors.New("it did not")
		}
		return nil
	})
}

func missingBackend(t *testing.T, m *mesh, c *lab.Pod) {
	addr := at(serviceIPs("plain", "echo")[0], 80)
	m.apply(t, route("plain", "all", "echo", routeRules))
	until(t, "500 for what leads nowhere", func() error { return want(c, addr, request{path: "/soon"}, 500, "") })
	count := map[int]int{}
	for range 100 {
		a, err := call(c, addr, request{path: "/half"})
		if err != nil {
			t.Fatal(err)
		}
		count[a.status]++
	}
	// Of 100 picks between two, 20 of either are off by six standard deviations.
	if count[200] < 20 || count[500] < 20 || count[200]+count[500] != 100 {
		t.Errorf("statuses %v, want about half 200 and half 500", count)
	}
	t.Run("appears", func(t *testing.T) {
		m.apply(t, `apiVersion: v1
kind: Service
metadata: {name: later, namespace: plain}
spec:
  clusterIP: 10.97.1.1
  selector: {pod: s2}
  ports: [{port: 80, targetPort: 8080}]
`)
		until(t, "the route heals", func() error { return want(c, addr, request{path: "/soon"}, 200, "plain/s2") })
	})
	until(t, "it is gone again", func() error { return want(c, addr, request{path: "/soon"}, 500, "") })
}

// consumers: a route in the Service's namespace is for all callers but those of a namespace with a route of its own.
func consumers(t *testing.T, m *mesh) {
	m.apply(t, route("plain", "producer", "echo", "    - backendRefs: [{name: s1, port: 80}]\n")+
		route("other", "consumer", "echo", "    - backendRefs: [{name: s2, namespace: plain, port: 80}]\n")+
		`---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: other, namespace: plain}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}]
  to: [{group: "", kind: Service}]
`)
	for _, ip := range serviceIPs("plain", "echo") {
		until(t, "the consumer's route", func() error {
			return want(m.Pod("other", "c"), at(ip, 80), request{path: "/"}, 200, "plain/s2")
		})
		for range 10 {
			for _, try := range []struct {
				from *lab.Pod
				pod  string
			}{{m.Pod("plain", "c"), "plain/s1"}, {m.Pod("perm", "c"), "plain/s1"}, {m.Pod("other", "c"), "plain/s2"}} {
				if err := want(try.from, at(ip, 80), request{path: "/"}, 200, try.pod); err != nil {
					t.Errorf("from %s: %v", try.from.Name, err)
				}
			}
		}
	}
}

const grpcManifest = `apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: health, namespace: plain}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 90}]
  rules:
    - matches: [{method: {service: grpc.health.v1.Health, method: Check}}]
      backendRefs: [{name: s1, port: 90}]
`

// grpcRoute calls a real gRPC server by method.
func grpcRoute(t *testing.T, m *mesh, c *lab.Pod) {
	m.apply(t, grpcManifest)
	for _, ip := range serviceIPs("plain", "echo") {
		until(t, "calls by the route", func() error { return grpcCalls(t, c, at(ip, 90)) })
	}
}

func grpcCalls(t *testing.T, c *lab.Pod, addr string) error {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return c.Dial(ctx, "tcp", addr) }))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if r, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("%v, %w", r, err)
	}
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
		return fmt.Errorf("the server's own error: %w", err)
	}
	// No rule has List: with a route, what no rule has is not served.
	if _, err := client.List(ctx, &healthpb.HealthListRequest{}); status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("a method that no rule has: code %s", status.Code(err))
	}
	return nil
}

// refusedRoute: a route that Envoy refuses is told so, and the other one of the Service is served, and changes.
func refusedRoute(t *testing.T, m *mesh, c *lab.Pod) {
	// Go's regular expressions know the class by this name, and Envoy's do not.
	bad := route("plain", "bad", "echo", `    - matches: [{path: {type: RegularExpression, value: '/\p{Letter}+'}}]
      backendRefs: [{name: s1, port: 80}]
`)
	for _, pod := range []string{"s2", "s1"} {
		m.apply(t, bad+route("plain", "good", "echo", "    - backendRefs: [{name: "+pod+", port: 80}]\n"))
		for _, path := range []string{"/", "/a"} {
			until(t, "the other route is served", func() error {
				return want(c, at(serviceIPs("plain", "echo")[0], 80), request{path: path}, 200, "plain/"+pod)
			})
		}
	}
	until(t, "the refused route's status tells, and no other", func() error {
		out, _ := m.weft(t, "config", "status")
		refused := 0
		for line := range strings.Lines(out) {
			if !strings.Contains(line, "Envoy refused") {
				continue
			}
			if refused++; !strings.HasPrefix(line, "HTTPRoute/plain/bad ") {
				return errors.New(line)
			}
		}
		if refused == 0 {
			return errors.New(out)
		}
		return nil
	})
}

// nack: what only Envoy can refuse is told where users look, and serves nobody worse.
func nack(t *testing.T, m *mesh, c *lab.Pod) {
	listener, err := net.Listen("tcp", at(m.Lab.Gateway, 8999)) // the Gateway's port is taken on the node
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	m.apply(t, route("plain", "good", "echo", "    - backendRefs: [{name: s2, port: 80}]\n")+fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weft}
spec: {controllerName: weft.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: taken, namespace: plain}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress, value: %s}]
  listeners: [{name: http, protocol: HTTP, port: 8999}]
`, m.Lab.Gateway))
	until(t, "the rest of the file is served", func() error {
		return want(c, at(serviceIPs("plain", "echo")[0], 80), request{path: "/"}, 200, "plain/s2")
	})
	until(t, "the Gateway's status tells", func() error {
		out, _ := m.weft(t, "config", "status")
		if !strings.Contains(out, "taken") || !strings.Contains(out, "refused") {
			return errors.New(out)
		}
		return nil
	})
	until(t, "weft status reports it and the node stays healthy", func() error {
		if out, code := m.weft(t, "status"); code != 0 || !strings.Contains(out, "Gateway/plain/taken") && !strings.Contains(out, "gateway/plain/taken") {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		return nil
	})
}
