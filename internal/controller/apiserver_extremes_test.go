//go:build cluster

package controller

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// lockedBuffer is a log that several write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestExtremeObjects: the largest and worst objects that the API server takes get a status that it takes too.
func TestExtremeObjects(t *testing.T) {
	w := newWorld(t)
	w.install(crdsOfTheGatewayAPI(t, "gatewayclasses", "xmeshes", "gateways", "listenersets", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes", "referencegrants")...)
	w.install("../../install/crds/weft.io_addresspools.yaml", "../../install/crds/weft.io_authorizationpolicies.yaml")
	var log lockedBuffer
	_, stop := w.start("only", func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	long := strings.Repeat(strings.Repeat("n", 62)+".", 4)[:251]
	w.create(pool)
	for _, o := range []*unstructured.Unstructured{
		w.create(gatewayOf(long, func(i int) string {
			return fmt.Sprintf(`{name: %s-%d, port: %d, protocol: HTTPS, hostname: "*.%d.%s.example", tls: {certificateRefs: [{name: %s}]}, allowedRoutes: {kinds: [{kind: Nonsense}]}}`,
				long[:240], i, 1+i/8, i%8, strings.Repeat("h", 60), long)
		})),
		w.create(gatewayOf("every-port", func(i int) string {
			return fmt.Sprintf("{name: l%d, port: %d, protocol: %s}", i, i+1, []string{"HTTP", "UDP", "TCP", "example.com/none"}[i%4])
		})),
		w.create(`{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: addresses, namespace: default}, spec: {gatewayClassName: weft,
  addresses: [{value: 0.0.0.0}, {value: 255.255.255.255}, {value: "::"}, {value: 127.0.0.1}, {value: 192.0.2.200}, {type: Hostname, value: example.com}, {value: 224.0.0.1}],
  listeners: [{name: http, port: 80, protocol: HTTP}]}}`),
		w.create(`{apiVersion: weft.io/v1alpha1, kind: AddressPool, metadata: {name: nonsense}, spec: {addresses: ["9.9.9.9-1.1.1.1", "1.1.1.1/99", "::-1.1.1.1", "1.1.1.1/0", "192.0.2.0/28", "fd00::/8"]}}`),
		w.create(routeOf(long)),
		w.create(policyOf(long)),
	} {
		w.until(o.GetKind()+" has a status", func() bool {
			return condition(w.get(o), "Accepted") != ""
		})
	}
	stop()
	if strings.Contains(log.String(), "not written") {
		t.Error(log.String())
	}
}

func gatewayOf(name string, listener func(i int) string) string {
	var listeners []string
	for i := range 64 {
		listeners = append(listeners, listener(i))
	}
	return fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: %s, namespace: default},
  spec: {gatewayClassName: weft, listeners: [%s]}}`, name, strings.Join(listeners, ", "))
}

// routeOf names 31 parents and 128 backends that are not there, and the Gateway of the same name.
func routeOf(name string) string {
	parents, rules := []string{"{name: " + name + "}"}, []string{}
	for i := range 31 {
		parents = append(parents, fmt.Sprintf("{group: '', kind: Service, namespace: none, name: %s-%d}", name[:200], i))
	}
	for i := range 16 {
		var refs []string
		for j := range 8 {
			refs = append(refs, fmt.Sprintf("{name: %s-%d-%d, namespace: nowhere, port: 80}", name[:200], i, j))
		}
		rules = append(rules, "{backendRefs: ["+strings.Join(refs, ", ")+"]}")
	}
	return fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: %s, namespace: default},
  spec: {parentRefs: [%s], rules: [%s]}}`, name, strings.Join(parents, ", "), strings.Join(rules, ", "))
}

// policyOf has 64 rules of what is no identity of the mesh.
func policyOf(name string) string {
	var rules []string
	for i := range 64 {
		rules = append(rules, fmt.Sprintf(`{sources: [{type: SPIFFE, spiffe: "spiffe://other/%s%d"}]}`, strings.Repeat("x", 1900), i))
	}
	return fmt.Sprintf(`{apiVersion: weft.io/v1alpha1, kind: AuthorizationPolicy, metadata: {name: %s, namespace: default},
  spec: {action: ALLOW, rules: [%s]}}`, name, strings.Join(rules, ", "))
}
