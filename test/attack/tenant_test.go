package attack

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// meshRoute is an HTTPRoute of the tenant. parent is a parentRef, rules the list of rules.
func meshRoute(name, parent, rules string, hosts ...string) string {
	return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: %s, namespace: tenant}\nspec:\n"+
		"  parentRefs: [%s]\n  hostnames: [%s]\n  rules:\n%s", name, parent, strings.Join(hosts, ", "), rules)
}

// pathRules are two rules with 64 matches each, which is what a route may have. Each has filters, a list.
func pathRules(first int, kind, format, filters string) string {
	var b strings.Builder
	for r := range 2 {
		fmt.Fprintf(&b, "  - backendRefs: [{name: routed, port: 80}]\n    filters: [%s]\n    matches:\n", filters)
		for i := range 64 {
			fmt.Fprintf(&b, "    - path: {type: %s, value: '%s'}\n", kind, fmt.Sprintf(format, first+64*r+i))
		}
	}
	return b.String()
}

// onRouted is the parentRef of the tenant's own Service.
const onRouted = `{group: "", kind: Service, name: routed}`

// most returns the most that Envoy holds until done is closed, in MB.
func (a *arena) most(t *testing.T, done <-chan struct{}) (most int) {
	for {
		envoy, _ := a.memory(t)
		most = max(most, envoy)
		select {
		case <-done:
			return most
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// getsFor asks for / all the time.
func (a *arena) getsFor(d time.Duration, to netip.AddrPort) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(250 * time.Millisecond) {
			_ = reached(a.mallory, to)
		}
	}()
	return done
}

// ownMemory bounds what Envoy holds of a tenant's objects, in MB.
const ownMemory = 250

// longRules: four routes whose rules have a quarter of a megabyte of headers, each of which 64 matches have.
func longRules(t *testing.T, a *arena) string {
	headers := func(prefix string) string {
		var b strings.Builder
		for i := range 16 {
			fmt.Fprintf(&b, "{name: %s-%d, value: %s}, ", prefix, i, strings.Repeat("v", 4000))
		}
		return "[" + b.String() + "]"
	}
	filters := fmt.Sprintf("{type: RequestHeaderModifier, requestHeaderModifier: {set: %s, add: %s}}, {type: ResponseHeaderModifier, responseHeaderModifier: {set: %s, add: %s}}",
		headers("a"), headers("b"), headers("c"), headers("d"))
	for i := range 4 {
		a.put(t, fmt.Sprintf("long-%d.yaml", i), meshRoute(fmt.Sprint("long-", i), onRouted, pathRules(128*i, "PathPrefix", "/p%d", filters)))
	}
	until(t, "the youngest route is over its namespace's budget", func() error { return a.trouble("HTTPRoute/tenant/long-3", "UnsupportedValue") })
	most := 0
	noticed := a.under(t, func() { most = a.most(t, a.getsFor(10*time.Second, netip.MustParseAddrPort(a.routed("tenant")))) }, nil)
	if most > ownMemory {
		t.Errorf("Envoy held %d MB", most)
	}
	return fmt.Sprintf("4 routes of %d KB; Envoy at most %d MB; %s", 2*len(filters)>>10, most, noticed)
}

// widerHosts: 512 rules of a wildcard, and a thousand hosts below it, each of which has them too.
func widerHosts(t *testing.T, a *arena) string {
	edge := netip.AddrPortFrom(a.gateways(t), 80)
	const parent = "{name: edge, sectionName: http}"
	for i := range 4 {
		a.put(t, fmt.Sprintf("wide-%d.yaml", i), meshRoute(fmt.Sprint("wide-", i), parent, pathRules(128*i, "PathPrefix", "/p%d", ""), "'*.example.com'"))
	}
	const routes = 64
	for i := range routes {
		var hosts []string
		for j := range 16 {
			hosts = append(hosts, fmt.Sprintf("h%d-%d.example.com", i, j))
		}
		a.put(t, fmt.Sprintf("narrow-%d.yaml", i), meshRoute(fmt.Sprint("narrow-", i), parent, "  - backendRefs: [{name: routed, port: 80}]\n", hosts...))
	}
	// Objects of a folder are as old as their names say.
	until(t, "a route is over its namespace's budget", func() error { return a.trouble("HTTPRoute/tenant/wide-3", "UnsupportedValue") })
	most := 0
	noticed := a.under(t, func() { most = a.most(t, a.getsFor(10*time.Second, edge)) }, nil)
	if most > ownMemory {
		t.Errorf("Envoy held %d MB", most)
	}
	return fmt.Sprintf("512 rules of a wildcard, %d hosts; Envoy at most %d MB; %s", 16*routes, most, noticed)
}

// manyPaths: 8 policies of 36,864 paths each.
func manyPaths(t *testing.T, a *arena) string {
	for i := range 8 {
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: weft.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: paths-%d, namespace: tenant}\nspec:\n  action: ALLOW\n  rules:\n", i)
		for r := range 9 {
			b.WriteString("  - http:\n")
			for h := range 64 {
				b.WriteString("    - paths: [")
				for p := range 64 {
					fmt.Fprintf(&b, "{value: /%d/%d/%d}, ", r, h, p)
				}
				b.WriteString("]\n")
			}
		}
		a.put(t, fmt.Sprintf("paths-%d.yaml", i), b.String())
	}
	for i := range 8 {
		until(t, "the policy says that it is too large", func() error { return a.trouble(fmt.Sprintf("AuthorizationPolicy/tenant/paths-%d", i), "Invalid") })
	}
	to := netip.AddrPortFrom(a.accomplice.Address, 8080)
	until(t, "the policies allow nothing", func() error {
		if reached(a.mallory, to) == nil {
			return fmt.Errorf("a peer is answered")
		}
		return nil
	})
	most := 0
	noticed := a.under(t, func() { most = a.most(t, a.getsFor(10*time.Second, to)) }, nil)
	if most > ownMemory {
		t.Errorf("Envoy held %d MB", most)
	}
	return fmt.Sprintf("294,912 paths; Envoy at most %d MB; %s", most, noticed)
}

// longPaths: requests with paths of 54 KB, for which Envoy compares with each of a tenant's 1,024 expressions that it holds. Neighbours
// are served; how long they wait is told, for the thread of Envoy that compares serves nobody else (docs/security.md).
func longPaths(t *testing.T, a *arena) string {
	for i := range 8 {
		a.put(t, fmt.Sprintf("regex-%d.yaml", i), meshRoute(fmt.Sprint("regex-", i), onRouted, pathRules(128*i, "RegularExpression", "/.*[a-m].*[n-z].*q%d", "")))
	}
	until(t, "the youngest route has too many expressions", func() error { return a.trouble("HTTPRoute/tenant/regex-7", "UnsupportedValue") })
	to, path := a.routed("tenant"), "/"+strings.Repeat("ab", 27000)
	until(t, "Envoy has the routes", func() error {
		if err := reached(a.mallory, netip.MustParseAddrPort(to)); err == nil || !strings.Contains(err.Error(), " 404 ") {
			return fmt.Errorf("answer: %w", err)
		}
		return nil
	})
	var slowestAnswer time.Duration
	noticed := a.while(t, func() {
		for range 20 {
			began := time.Now()
			c, err := a.mallory.Dial(contextFor(5*time.Second), "tcp", to)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
			if answer, err := io.ReadAll(c); !strings.Contains(string(answer), " 404 ") {
				t.Errorf("answer %.40q, error %v", answer, err)
			}
			c.Close()
			slowestAnswer = max(slowestAnswer, time.Since(began))
		}
	})
	for name, r := range noticed {
		if r.Failed > 0 {
			t.Errorf("%d of the neighbour's requests failed, %s: %v", r.Failed, name, r.Failures())
		}
	}
	return fmt.Sprintf("20 requests, the slowest takes %s; routed p99 %s, bytes p99 %s", slowestAnswer.Round(time.Millisecond),
		noticed["routed"].Quantile(0.99).Round(time.Millisecond), noticed["bytes"].Quantile(0.99).Round(time.Millisecond))
}

// foreignRules: a tenant's routes for its own callers of another namespace's Service, as many as it may have. The Service's other
// callers are not compared with them.
func foreignRules(t *testing.T, a *arena) string {
	const routes = 240
	before := a.quiet(t)["routed"]
	for i := range routes {
		a.put(t, fmt.Sprintf("foreign-%d.yaml", i), meshRoute(fmt.Sprint("foreign-", i), `{group: "", kind: Service, name: routed, namespace: bank}`, pathRules(128*i, "PathPrefix", "/p%d", "")))
	}
	until(t, "the tenant's callers have rules of their own", func() error {
		if err := reached(a.mallory, netip.MustParseAddrPort(a.routed("bank"))); err == nil || !strings.Contains(err.Error(), "404") {
			return fmt.Errorf("answer: %w", err)
		}
		return nil
	})
	most := 0
	noticed := a.under(t, func() { most = a.most(t, a.getsFor(5*time.Second, netip.MustParseAddrPort(a.routed("bank")))) }, nil)
	during := a.quiet(t)["routed"]
	if was, is := before.Quantile(0.5), during.Quantile(0.5); is > 4*was && is > slowest {
		t.Errorf("the median of another namespace's calls grows from %s to %s", was, is)
	}
	return fmt.Sprintf("%d rules; Envoy at most %d MB; median %s, before %s; %s", 128*routes, most, during.Quantile(0.5), before.Quantile(0.5), noticed)
}

// sweepOwnPorts: a pod calls each of 12,288 ports of its namespace's Services that Envoy serves.
func sweepOwnPorts(t *testing.T, a *arena) string {
	const services, ports = 6, 2048
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, 79, byte(i + 1)}) }
	for i := range services {
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Service\nmetadata: {name: swept-%d, namespace: tenant, labels: {weft.io/l7: enabled}}\nspec:\n  clusterIP: %s\n"+
			"  sessionAffinity: ClientIP\n  selector: {app: accomplice}\n  ports:\n", i, address(i))
		for port := range ports {
			fmt.Fprintf(&b, "  - {name: p%d, port: %d, targetPort: 8080}\n", port, port+1)
		}
		a.put(t, fmt.Sprintf("swept-%d.yaml", i), b.String())
	}
	until(t, "the last Service is served", func() error { return reached(a.mallory, netip.AddrPortFrom(address(services-1), 1)) })
	var answered atomic.Int64
	most := 0
	noticed := a.under(t, func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			var wg sync.WaitGroup
			for i := range services {
				wg.Go(func() {
					for port := range ports {
						if reached(a.mallory, netip.AddrPortFrom(address(i), uint16(port+1))) == nil {
							answered.Add(1)
						}
					}
				})
			}
			wg.Wait()
		}()
		most = a.most(t, done)
	}, nil)
	// Envoy holds an answer of 503 for each that is past the bound.
	if n := answered.Load(); most > 2*ownMemory || n < 1000 || n > 2048 {
		t.Errorf("Envoy held %d MB, %d ports answered", most, n)
	}
	return fmt.Sprintf("%d of %d ports answered; Envoy at most %d MB; %s", answered.Load(), services*ports, most, noticed)
}

const oddManifest = gatewayClass + `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: odd, namespace: tenant}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress, value: 10.98.7.2}]
  listeners: [{name: http, protocol: HTTP, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: odd, namespace: tenant}
spec: {parentRefs: [{name: odd}], rules: [{backendRefs: [{name: odd, port: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: odd, namespace: tenant}
spec: {clusterIP: 10.96.77.30, clusterIPs: [10.96.77.30, "fd96::7730"], ipFamilies: [IPv4, IPv6], ports: [{port: 80}]}
`

// oddSlice has one endpoint for each address.
func oddSlice(port uint16, addresses ...string) string {
	var docs []string
	for i, a := range addresses {
		kind := "IPv4"
		if strings.Contains(a, ":") {
			kind = "IPv6"
		}
		docs = append(docs, fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: odd-%d, namespace: tenant, labels: {kubernetes.io/service-name: odd}}
addressType: %s
ports: [{port: %d, protocol: TCP}]
endpoints: [{addresses: ["%s"], conditions: {ready: true}}]
`, i, kind, port, a))
	}
	return strings.Join(docs, "---\n")
}

// oddEndpoints: endpoints that are no place in the network lead nowhere, neither by a Gateway, whose connections are the node's own,
// nor from a pod. The node listens on all addresses, and the pod too.
func oddEndpoints(t *testing.T, a *arena) string {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	own, err := a.mallory.Listen("tcp", fmt.Sprint(":", port))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []net.Listener{l, own} {
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "nobody's") }), ReadHeaderTimeout: 10 * time.Second}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
	}
	gateway, service := netip.MustParseAddrPort("10.98.7.2:80"), netip.MustParseAddrPort("10.96.77.30:80")
	a.put(t, "odd.yaml", oddManifest)
	a.put(t, "odd-slice.yaml", oddSlice(port, a.Lab.Gateway.String()))
	both := func() (byGateway, byService error) { return reached(a.outsider, gateway), reached(a.mallory, service) }
	odd := []string{
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255",
		"::1", "::", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "fe80::1", "ff02::1",
	}
	tries := 0
	for _, address := range odd {
		if err := a.Write("odd-slice.yaml", []byte(oddSlice(port, a.Lab.Gateway.String()))); err != nil {
			t.Fatal(err)
		}
		until(t, "the node's own address is reached, as without a mesh", func() error {
			g, s := both()
			if g != nil {
				return g
			}
			return s
		})
		if err := a.Write("odd-slice.yaml", []byte(oddSlice(port, address))); err != nil {
			t.Fatal(err)
		}
		until(t, address+" is no way to the node", func() error {
			if g, s := both(); g == nil || s == nil {
				return fmt.Errorf("answered by the Gateway: %t, by the Service: %t", g == nil, s == nil)
			}
			return nil
		})
		for range 5 {
			if g, s := both(); g == nil || s == nil {
				t.Errorf("an endpoint %s is answered by the Gateway: %t, by the Service: %t", address, g == nil, s == nil)
			}
			tries += 2
		}
	}
	return fmt.Sprintf("%d requests to %d addresses refused", tries, len(odd))
}
