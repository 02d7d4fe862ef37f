package attack

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
)

// takenPort: Envoy cannot listen in a pod whose application has the port. That is this pod's matter: a Gateway that comes
// later is served.
func takenPort(t *testing.T, a *arena) string {
	l, err := a.open.Listen("tcp", fmt.Sprint(":", model.PortInbound))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a.put(t, "taken.yaml", `apiVersion: weft.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: taken, namespace: open}
spec: {action: ALLOW, targetRefs: [{kind: Pod, selector: {matchLabels: {app: server}}}]}
`)
	until(t, "Envoy refuses to listen in the pod", func() error {
		st, err := a.API.Status(t.Context())
		if err != nil {
			return err
		}
		for _, r := range st.Rejections {
			if strings.Contains(r.Message, "cannot bind") {
				return nil
			}
		}
		return fmt.Errorf("refused are %v", st.Rejections)
	})
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
	return "a Gateway that came later is served"
}
