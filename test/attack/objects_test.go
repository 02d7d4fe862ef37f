package attack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

// put writes a manifest that a tenant would apply, and takes it away when the case is over.
func (a *arena) put(t *testing.T, file, text string) {
	t.Helper()
	if err := a.Write(file, []byte(text)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.Remove(filepath.Join(a.Manifests(), file))
		until(t, "the node forgets "+file, func() error { return a.neighbourServed() })
	})
}

// neighbourServed reports whether the neighbour's requests are answered.
func (a *arena) neighbourServed() error {
	var errs []error
	for _, w := range a.ways {
		errs = append(errs, reached(w.from, w.to))
	}
	return errors.Join(errs...)
}

// until waits until f succeeds.
func until(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Errorf("%s: %v", what, err)
}

// trouble reports whether weft status has a condition with this reason on an object.
func (a *arena) trouble(object, reason string) error {
	st, err := a.API.Status(context.Background())
	if err != nil {
		return err
	}
	for _, x := range st.Troubles {
		if x.Object.String() == object && x.Reason == reason {
			return nil
		}
	}
	return fmt.Errorf("no %s of %s among %v", reason, object, st.Troubles)
}

// claimedAddress: a Pod object that claims a strict pod's address opens it to nobody.
func claimedAddress(t *testing.T, a *arena) string {
	a.put(t, "claim.yaml", `apiVersion: v1
kind: Pod
metadata: {name: impostor, namespace: street, creationTimestamp: "2020-01-01T00:00:00Z"}
status: {phase: Running, podIP: `+a.server.Address.String()+`, podIPs: [{ip: `+a.server.Address.String()+`}]}
`)
	until(t, "the conflict is known", func() error { return a.trouble("Pod/bank/server", "AddressConflict") })
	n, to := 0, netip.AddrPortFrom(a.server.Address, 8080)
	for _, from := range []*lab.Pod{a.outsider, a.mallory, a.client} {
		until(t, "the kernel knows it", func() error { // peers have sessions from before
			if dials(from, to) == nil {
				return fmt.Errorf("%s is let in", from.Name)
			}
			return nil
		})
		for range 20 {
			if err := dials(from, to); err == nil {
				t.Errorf("%s reaches a strict pod whose address is claimed twice", from.Name)
			}
			n++
		}
	}
	return fmt.Sprintf("%d connections of an outsider and of peers refused", n)
}

// externalAddress: spec.externalIPs takes no address.
func externalAddress(t *testing.T, a *arena) string {
	taken := []netip.AddrPort{netip.AddrPortFrom(a.Lab.Gateway, 10250), netip.AddrPortFrom(a.plain.Address, 80), netip.MustParseAddrPort("192.0.2.53:80")}
	a.put(t, "external.yaml", fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: grab, namespace: tenant}
spec:
  clusterIP: 10.96.77.1
  externalIPs: [%s, %s, 192.0.2.53]
  selector: {app: accomplice}
  ports: [{name: a, port: 80, targetPort: 8080}, {name: b, port: 10250, targetPort: 8080}]
`, a.Lab.Gateway, a.plain.Address))
	until(t, "the Service says that it has no such address", func() error { return a.trouble("Service/tenant/grab", "ExternalIPNotAllowed") })
	until(t, "the Service itself is served", func() error { return reached(a.mallory, netip.MustParseAddrPort("10.96.77.1:80")) })
	for _, to := range taken {
		if err := reached(a.outsider, to); err == nil {
			t.Errorf("%s is answered by a tenant's Service", to)
		}
	}
	return fmt.Sprintf("%d addresses not taken", len(taken))
}

// foreignEndpoint: an EndpointSlice with another namespace's pod lends that pod nobody's identity.
func foreignEndpoint(t *testing.T, a *arena) string {
	a.put(t, "foreign.yaml", `apiVersion: v1
kind: Service
metadata: {name: borrow, namespace: tenant, labels: {weft.io/l7: enabled}}
spec: {clusterIP: 10.96.77.2, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: borrow-1, namespace: tenant, labels: {kubernetes.io/service-name: borrow}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: ["`+a.server.Address.String()+`"], conditions: {ready: true}}]
`)
	to := netip.MustParseAddrPort("10.96.77.2:80")
	// Envoy answers, and its answer is a refusal.
	until(t, "the Service says why", func() error { return a.trouble("Service/tenant/borrow", "ForeignEndpoint") })
	until(t, "Envoy refuses", func() error {
		if err := reached(a.mallory, to); err == nil || !strings.Contains(err.Error(), "503") {
			return fmt.Errorf("answer: %w", err)
		}
		return nil
	})
	for range 50 {
		if err := reached(a.mallory, to); err == nil {
			t.Error("a request reached a pod of another namespace")
		}
	}
	return "50 requests refused"
}

// manyExpressions: 40 routes with 128 regular expressions each.
func manyExpressions(t *testing.T, a *arena) string {
	for i := range 40 {
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: regex-%d, namespace: tenant}\nspec:\n"+
			"  parentRefs: [{group: \"\", kind: Service, name: routed}]\n  rules:\n", i)
		for j := range 16 {
			b.WriteString("  - backendRefs: [{name: routed, port: 80}]\n    matches:\n")
			for k := range 8 {
				fmt.Fprintf(&b, "    - path: {type: RegularExpression, value: '/r%d/%d/%d/.*a.{40}'}\n", i, j, k)
			}
		}
		a.put(t, fmt.Sprintf("regex-%d.yaml", i), b.String())
	}
	most := 0
	noticed := a.under(t, func() {
		for range 20 {
			_ = reached(a.mallory, netip.MustParseAddrPort(a.routed("tenant")))
			if envoy, _ := a.memory(t); envoy > most {
				most = envoy
			}
			time.Sleep(250 * time.Millisecond)
		}
	}, nil)
	if most > 150 {
		t.Errorf("Envoy held %d MB", most)
	}
	refused := 0
	for i := range 40 {
		if a.trouble(fmt.Sprintf("HTTPRoute/tenant/regex-%d", i), "UnsupportedValue") == nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no route has a condition that says that its expressions do not fit")
	}
	return fmt.Sprintf("5,120 expressions, %d of 40 routes refused; Envoy at most %d MB; %s", refused, most, noticed)
}

// manyPorts: 32 Services of 2,048 ports leave room for another namespace's new Service.
func manyPorts(t *testing.T, a *arena) string {
	for i := range 32 {
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Service\nmetadata: {name: wide-%d, namespace: tenant}\nspec:\n  clusterIP: 10.96.78.%d\n"+
			"  selector: {app: accomplice}\n  ports:\n", i, i+1)
		for port := range 2048 {
			fmt.Fprintf(&b, "  - {name: p%d, port: %d, targetPort: 8080}\n", port, port+1)
		}
		a.put(t, fmt.Sprintf("wide-%d.yaml", i), b.String())
	}
	until(t, "the youngest Service is over its namespace's budget", func() error {
		for i := range 32 {
			if a.trouble(fmt.Sprintf("Service/tenant/wide-%d", i), "OverBudget") == nil {
				return nil
			}
		}
		return errors.New("none is")
	})
	a.put(t, "late.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: late, namespace: bank}\n"+
		"spec: {clusterIP: 10.96.77.3, selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}\n")
	began := time.Now()
	until(t, "a new Service of another namespace is served", func() error { return reached(a.client, netip.MustParseAddrPort("10.96.77.3:80")) })
	return fmt.Sprintf("65,536 ports asked for; another namespace's new Service is served after %.1f s", time.Since(began).Seconds())
}

// weakerLabel: a pod's own label does not open it where its namespace enforces strict.
func weakerLabel(t *testing.T, a *arena) string {
	const file, own, weaker = "attack/all.yaml", "app: accomplice", "app: accomplice, weft.io/mtls: disabled"
	to := netip.AddrPortFrom(a.accomplice.Address, 8080)
	// The Pod comes before the Service that selects it.
	if err := a.Edit(file, func(text string) string { return strings.Replace(text, own, weaker, 1) }); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Edit(file, func(text string) string { return strings.Replace(text, weaker, own, 1) }); err != nil {
			t.Error(err)
		}
	}()
	until(t, "the label is not followed", func() error { return a.trouble("Pod/tenant/accomplice", "Invalid") })
	const tries = 20
	for range tries {
		if err := reached(a.outsider, to); err == nil {
			t.Error("an outsider is answered")
			break
		}
	}
	if err := reached(a.mallory, to); err != nil {
		t.Errorf("a peer: %v", err)
	}
	return fmt.Sprintf("%d connections refused", tries)
}
