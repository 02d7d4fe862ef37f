//go:build cluster

package e2e

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/load"
)

// TestBadInput applies what cannot work. Each object says so in a condition and an event, and the shared Gateway, in
// the same pool, answers all the time.
func TestBadInput(t *testing.T) {
	var edge []flow
	for _, f := range background(t) {
		if strings.HasPrefix(f.name, "gateway") {
			edge = append(edge, f)
		}
	}
	ns := "e2e-bad"
	namespace(t, ns, "")
	deploy(t, deployment{namespace: ns, name: "web"})
	apply(t, service(ns, "web", "web"))
	f := begin(t, edge...)
	t.Run("address outside the pool", func(t *testing.T) {
		apply(t, httpGateway(ns, "outside", addresses("203.0.113.9")))
		says := conditionOf(t, ns, "outside", "Programmed", "False", "AddressNotUsable")
		mentions(t, says.Message, "203.0.113.9", "AddressPool")
		warned(t, ns, "Gateway", "outside", "AddressNotUsable")
	})
	t.Run("two Gateways want one address", func(t *testing.T) { twoWantOne(t, ns) })
	t.Run("the pool runs dry", func(t *testing.T) { poolRunsDry(t, ns) })
	t.Run("a class that is not ours", func(t *testing.T) {
		apply(t, "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: e2e-other}\nspec: {controllerName: example.com/other}\n"+
			strings.Replace(httpGateway(ns, "foreign", ""), "gatewayClassName: weft", "gatewayClassName: e2e-other", 1))
		t.Cleanup(func() { remove(t, gatewayAPI, "GatewayClass", "", "e2e-other") })
		keepFlowing(3 * time.Second)
		var gw gatewayStatus
		if err := read(t, gatewayAPI, "Gateway", ns, "foreign", &gw); err != nil {
			t.Fatal(err)
		}
		for _, c := range gw.Status.Conditions {
			if c.Status != "Unknown" { // what the API server gives every Gateway that is new
				t.Errorf("a Gateway of another controller has our condition %+v", c)
			}
		}
		if len(gw.Status.Addresses) > 0 {
			t.Errorf("a Gateway of another controller has our addresses %v", gw.Status.Addresses)
		}
	})
	t.Run("what Envoy refuses", func(t *testing.T) { refusedByEnvoy(t, ns) })
	t.Run("secrets", func(t *testing.T) { badSecrets(t, ns) })
	f.end()
}

func addresses(a string) string { return "\n  addresses: [{type: IPAddress, value: " + a + "}]" }

// conditionOf waits until a Gateway's condition has a status and a reason.
func conditionOf(t *testing.T, ns, name, kind, status, reason string) condition {
	t.Helper()
	var c condition
	eventually(t, settle, func() error {
		var gw gatewayStatus
		if err := read(t, gatewayAPI, "Gateway", ns, name, &gw); err != nil {
			return err
		}
		if c = find(gw.Status.Conditions, kind); c.Status != status || c.Reason != reason {
			return fmt.Errorf("Gateway %s: condition %s is %+v, want %s with reason %s", name, kind, c, status, reason)
		}
		return nil
	})
	return c
}

func listenerCondition(t *testing.T, ns, name, listener, kind, status, reason string) condition {
	t.Helper()
	var c condition
	eventually(t, settle, func() error {
		var gw gatewayStatus
		if err := read(t, gatewayAPI, "Gateway", ns, name, &gw); err != nil {
			return err
		}
		for _, l := range gw.Status.Listeners {
			if l.Name == listener {
				c = find(l.Conditions, kind)
			}
		}
		if c.Status != status || c.Reason != reason {
			return fmt.Errorf("Gateway %s, listener %s: condition %s is %+v, want %s with reason %s", name, listener, kind, c, status, reason)
		}
		return nil
	})
	return c
}

func mentions(t *testing.T, message string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(message, w) {
			t.Errorf("the message %q does not mention %s", message, w)
		}
	}
}

// warned waits for an object's event of type Warning with a reason.
func warned(t *testing.T, ns, kind, name, reason string) {
	t.Helper()
	eventually(t, settle, func() error {
		all := events(t, ns, kind, name)
		for _, e := range all {
			if strings.HasPrefix(e, "Warning "+reason+":") {
				t.Log(e)
				return nil
			}
		}
		return fmt.Errorf("%s %s has no warning with reason %s: %q", kind, name, reason, all)
	})
}

// twoWantOne lets the older have the address and the port.
func twoWantOne(t *testing.T, ns string) {
	apply(t, httpGateway(ns, "first", addresses("10.89.1.219"))+gatewayRoute(ns, "first", "first", "first.example", "web"))
	address := gatewayAddress(t, ns, "first")
	keepFlowing(1100 * time.Millisecond) // creation times are whole seconds
	apply(t, httpGateway(ns, "second", addresses("10.89.1.219"))+gatewayRoute(ns, "second", "second", "second.example", "web"))
	eventually(t, settle, func() error {
		var gw gatewayStatus
		if err := read(t, gatewayAPI, "Gateway", ns, "second", &gw); err != nil {
			return err
		}
		if c := find(gw.Status.Conditions, "Programmed"); c.Status != "False" {
			return fmt.Errorf("the second Gateway that wants %s: Programmed is %+v, want False", address, c)
		}
		return nil
	})
	statuses(t, address, "first.example", 200)
	statuses(t, address, "second.example", 404)
	remove(t, gatewayAPI, "Gateway", ns, "first")
	gatewayAddress(t, ns, "second")
	statuses(t, address, "second.example", 200)
}

// statuses asks a Gateway for a host until it answers so.
func statuses(t *testing.T, address, host string, want int) {
	t.Helper()
	eventually(t, settle, func() error {
		r := once(t, load.Config{URL: "http://" + address + "/", Host: host})
		if r.Statuses[want] != 1 {
			return fmt.Errorf("%s at %s: %v %v, want %d", host, address, r.Statuses, r.Failures(), want)
		}
		return nil
	})
}

// once sends one request from this machine.
func once(t *testing.T, c load.Config) *load.Report {
	t.Helper()
	c.Requests = 1
	r, err := load.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// poolRunsDry leaves the pool the addresses that are in use, asks for one more, and gives it one.
func poolRunsDry(t *testing.T, ns string) {
	used := []string{gatewayAddress(t, plain, "edge"), "10.89.1.219"}
	addressPool(t, used...)
	t.Cleanup(func() { addressPool(t, pool) })
	apply(t, httpGateway(ns, "thirsty", ""))
	conditionOf(t, ns, "thirsty", "Programmed", "False", "AddressNotAssigned")
	warned(t, ns, "Gateway", "thirsty", "AddressNotAssigned")
	addressPool(t, pool)
	gatewayAddress(t, ns, "thirsty")
}

// refusedByEnvoy adds a route with an expression that Go compiles and Envoy does not take. The route says so, by what the
// nodes report, the other route of the Gateway is served, and once it is mended both are.
func refusedByEnvoy(t *testing.T, ns string) {
	apply(t, httpGateway(ns, "refusing", "")+gatewayRoute(ns, "neighbour", "refusing", "neighbour.example", "web"))
	address := gatewayAddress(t, ns, "refusing")
	statuses(t, address, "neighbour.example", 200)
	matches := func(path string) string {
		return strings.Replace(gatewayRoute(ns, "huge", "refusing", "huge.example", "web"),
			"rules: [{", "rules: [{matches: [{path: "+path+"}], ", 1)
	}
	apply(t, matches("{type: RegularExpression, value: '/[acegikmoqsuwyACEGIKMOQSUWY]{900}'}"))
	routeCondition := func(status, reason string) (c condition) {
		t.Helper()
		eventually(t, settle, func() error {
			var r routeStatus
			if err := read(t, gatewayAPI, "HTTPRoute", ns, "huge", &r); err != nil {
				return err
			}
			if len(r.Status.Parents) > 0 {
				c = find(r.Status.Parents[0].Conditions, "Accepted")
			}
			if c.Status != status || c.Reason != reason {
				return fmt.Errorf("HTTPRoute huge: Accepted is %+v, want %s with reason %s", c, status, reason)
			}
			return nil
		})
		return c
	}
	mentions(t, routeCondition("False", "UnsupportedValue").Message, "Envoy of node n", "refused RouteConfiguration/")
	warned(t, ns, "HTTPRoute", "huge", "UnsupportedValue")
	statuses(t, address, "neighbour.example", 200)
	apply(t, matches("{type: PathPrefix, value: /}"))
	routeCondition("True", "Accepted")
	statuses(t, address, "huge.example", 200)
	statuses(t, address, "neighbour.example", 200)
	remove(t, gatewayAPI, "Gateway", ns, "refusing")
}

// badSecrets gives a listener no certificate, a good one, takes it away in use, and gives another.
func badSecrets(t *testing.T, ns string) {
	apply(t, fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: tls, namespace: %s}
spec:
  gatewayClassName: weft
  listeners:
    - {name: http, protocol: HTTP, port: 80}
    - {name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: cert}]}}
`, ns)+gatewayRoute(ns, "tls", "tls", "tls.example", "web"))
	address := gatewayAddress(t, ns, "tls")
	invalid := func() {
		t.Helper()
		c := listenerCondition(t, ns, "tls", "https", "ResolvedRefs", "False", "InvalidCertificateRef")
		mentions(t, c.Message, "cert")
		warned(t, ns, "Gateway", "tls", "InvalidCertificateRef")
		statuses(t, address, "tls.example", 200) // the other listener works
	}
	invalid()
	apply(t, tlsSecret(ns, "cert", []byte("no certificate"), []byte("no key")))
	invalid()
	cert, key := selfSigned(t, "tls.example")
	apply(t, tlsSecret(ns, "cert", cert, key))
	listenerCondition(t, ns, "tls", "https", "ResolvedRefs", "True", "ResolvedRefs")
	answers := func() error {
		r := once(t, load.Config{URL: "https://" + address + "/", Host: "tls.example",
			TLS: &tls.Config{InsecureSkipVerify: true, ServerName: "tls.example"}})
		if r.Failed > 0 {
			return fmt.Errorf("by HTTPS: %v", r.Failures())
		}
		return nil
	}
	eventually(t, settle, answers)
	apply(t, tlsSecret(ns, "cert", []byte("no certificate"), []byte("no key")))
	listenerCondition(t, ns, "tls", "https", "ResolvedRefs", "False", "InvalidCertificateRef")
	keepFlowing(time.Second)
	if err := answers(); err != nil {
		t.Errorf("a Secret in use became no certificate, and what worked does not any more: %v", err)
	}
	remove(t, "v1", "Secret", ns, "cert")
	invalid()
	apply(t, tlsSecret(ns, "cert", cert, key))
	eventually(t, settle, answers)
}
