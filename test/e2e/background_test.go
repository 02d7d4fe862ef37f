//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/weft-mesh/weft/test/cluster"
	"github.com/weft-mesh/weft/test/e2e/workload"
)

// Namespaces of the background workloads, which all tests share.
const (
	plain  = "e2e-plain"
	strict = "e2e-strict"
)

// pool holds the suite's addresses, on the link of all machines.
const pool = "10.89.1.200-10.89.1.219"

// addressPool makes the cluster's pool hold these addresses.
func addressPool(t testing.TB, addresses ...string) {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	if err := mesh.pool(ctx, addresses...); err != nil {
		t.Fatal(err)
	}
}

// httpGateway has one listener for HTTP on port 80, which takes routes of its namespace; more is YAML of its spec.
func httpGateway(namespace, name, more string) string {
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: %s}
spec:
  gatewayClassName: weft
  listeners: [{name: http, protocol: HTTP, port: 80}]%s
`, name, namespace, more)
}

// gatewayRoute sends a Gateway's requests for a host to a Service.
func gatewayRoute(namespace, name, gateway, host, service string) string {
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: %s}
spec:
  parentRefs: [{name: %s}]
  hostnames: [%s]
  rules: [{backendRefs: [{name: %s, port: 80}]}]
`, name, namespace, gateway, host, service)
}

const (
	edgeHost    = "edge.e2e.example"
	edgeGateway = `---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: ` + plain + `}
spec:
  gatewayClassName: weft
  listeners:
    - {name: http, protocol: HTTP, port: 80}
    - {name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: edge}]}}
`
)

// background makes, where they are not yet, the workloads that traffic goes between, and gives that traffic: by a route,
// straight in the kernel, authenticated as bytes and as requests, and through a Gateway from outside. Clients are on n1,
// servers on both nodes.
func background(t testing.TB) []flow {
	t.Helper()
	addressPool(t, pool)
	for ns, labels := range map[string]string{plain: "", strict: "weft.io/mtls: strict"} {
		apply(t, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {%s}}\n", ns, labels))
		apply(t, deployment{namespace: ns, name: "web", replicas: 2, drains: true}.manifest())
		apply(t, deployment{namespace: ns, name: "client", node: "n1"}.manifest())
		apply(t, service(ns, "web", "web")+service(ns, "bytes", "web")+route(ns, "web", "web", backend{"web", 1}))
	}
	cert, key := selfSigned(t, edgeHost)
	apply(t, tlsSecret(plain, "edge", cert, key)+edgeGateway+gatewayRoute(plain, "edge", "edge", edgeHost, "web"))
	for _, ns := range []string{plain, strict} {
		rolledOut(t, ns, "deployment/web", "deployment/client")
		accepted(t, ns, "web")
	}
	flows := append(inside(t, plain, "route", "web"), inside(t, plain, "kernel", "bytes")...)
	flows = append(flows, inside(t, strict, "mTLS route", "web")...)
	flows = append(flows, inside(t, strict, "mTLS bytes", "bytes")...)
	flows = append(flows, outside(t, "gateway", plain, "edge", edgeHost)...)
	flows = append(flows, flow{name: "gateway TLS, new", spec: workload.Spec{
		URL: "https://" + gatewayAddress(t, plain, "edge") + "/", Host: edgeHost, SNI: edgeHost, Workers: 2, Rate: rate, NewConnections: true,
	}})
	works(t, flows)
	return flows
}

// rate of one background flow, requests a second.
const rate = 30

func inside(t testing.TB, namespace, name, service string) []flow {
	t.Helper()
	url := "http://" + clusterIP(t, namespace, service) + "/"
	return both(flow{name: name, namespace: namespace, client: "client", spec: workload.Spec{URL: url, Workers: 2, Rate: rate}})
}

func outside(t testing.TB, name, namespace, gateway, host string) []flow {
	t.Helper()
	url := "http://" + gatewayAddress(t, namespace, gateway) + "/"
	return both(flow{name: name, spec: workload.Spec{URL: url, Host: host, Workers: 2, Rate: rate}})
}

// works waits until each flow's first request is answered: nodes learn of new objects one after another.
func works(t testing.TB, all []flow) {
	t.Helper()
	for _, f := range all {
		eventually(t, settle, func() error {
			var a workload.Answer
			if f.client == "" {
				a = workload.Call(t.Context(), f.spec.URL, f.spec.Host, nil)
			} else {
				a = call(t, f.namespace, f.client, f.spec.URL)
			}
			if a.Status != 200 {
				return fmt.Errorf("%s: %+v", f.name, a)
			}
			return nil
		})
	}
}

// clear removes what the tests share, and gives the cluster all of its addresses back.
func (e *env) clear(ctx context.Context) {
	for _, ns := range []string{plain, strict} {
		_ = e.api.remove(ctx, "v1", "Namespace", "", ns)
	}
	_ = e.pool(ctx, cluster.Pool.String())
}

// keepFlowing keeps flows running for so long after what a test did.
func keepFlowing(d time.Duration) { time.Sleep(d) }
