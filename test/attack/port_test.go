package attack

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
)

// takenPort: Envoy and weft tunnel cannot listen in a pod whose application has the port. That is this pod's matter: the node is
// healthy, and a Gateway that comes later is served.
func takenPort(t *testing.T, a *arena) string {
	take(t, a.open, fmt.Sprint(":", model.PortInbound))
	a.put(t, "taken.yaml", `apiVersion: weft.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: taken, namespace: open}
spec: {action: ALLOW, targetRefs: [{kind: Pod, selector: {matchLabels: {app: server}}}]}
`)
	until(t, "Envoy refuses to listen in the pod", func() error { return a.toldOfPort(t, "open", "server", false) })
	a.wellAlthough(t)

	take(t, a.outsider, fmt.Sprint(":", model.PortHBONE), fmt.Sprint(":", model.PortTunnel), fmt.Sprint("127.0.0.1:", model.PortTunnelOut))
	const without = "name: outsider, namespace: street"
	const with = without + ", labels: {weft.io/mtls: permissive}"
	edit := func(from, to string) {
		if err := a.Edit("attack/all.yaml", func(s string) string { return strings.Replace(s, from, to, 1) }); err != nil {
			t.Error(err)
		}
	}
	edit(without, with)
	defer edit(with, without)
	until(t, "neither proxy can listen in the pod", func() error { return a.toldOfPort(t, "street", "outsider", true) })
	a.wellAlthough(t)
	described, err := exec.CommandContext(t.Context(), a.Binary, "describe", "pod", "street/outsider", "--run", a.RunDir).CombinedOutput()
	if text := string(described); err != nil || !strings.Contains(text, "cannot bind") || !strings.Contains(text, "weft tunnel cannot listen in the pod") {
		t.Errorf("weft describe: %v: %s", err, text)
	}

	a.put(t, "late-gateway.yaml", gatewayClass+`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: bank}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress, value: 10.98.7.1}]
  listeners: [{name: http, protocol: HTTP, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge, namespace: bank}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: routed, port: 80}]}]}
`)
	until(t, "the Gateway is served", func() error { return reached(a.plain, netip.MustParseAddrPort("10.98.7.1:80")) })
	return "the node is healthy, and a Gateway that came later is served"
}

// take has a pod's application listen at addresses until the test ends.
func take(t *testing.T, p *lab.Pod, addresses ...string) {
	t.Helper()
	for _, at := range addresses {
		l, err := p.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
}

// toldOfPort returns nil if the status says that a pod keeps Envoy, and with tunnel weft tunnel too, from listening, and
// blames the pod alone.
func (a *arena) toldOfPort(t *testing.T, namespace, name string, tunnel bool) error {
	st, err := a.API.Status(t.Context())
	if err != nil {
		return err
	}
	pod := model.ObjectRef{Kind: "Pod", Namespace: namespace, Name: name}
	if !slices.ContainsFunc(st.Rejections, func(r *model.Rejection) bool {
		return r.CannotBind() && len(r.Objects) == 1 && r.Objects[0].ObjectRef == pod
	}) {
		return fmt.Errorf("refused are %v", st.Rejections)
	}
	if tunnel && !slices.ContainsFunc(st.Troubles, func(x api.Trouble) bool { return x.Object == pod && x.Reason == "PortUnavailable" }) {
		return fmt.Errorf("objects with problems are %v", st.Troubles)
	}
	return nil
}

// wellAlthough waits until weft status finds the node healthy.
func (a *arena) wellAlthough(t *testing.T) {
	t.Helper()
	until(t, "the node is healthy although a pod has a port of the mesh", func() error {
		st, err := a.API.Status(t.Context())
		if err == nil && !st.Healthy {
			err = errors.New(strings.Join(st.Faults, "; "))
		}
		if err != nil {
			return err
		}
		return exec.CommandContext(t.Context(), a.Binary, "status", "--run", a.RunDir).Run()
	})
}
