package metrics

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/check"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

const aGateway = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weft}
spec: {controllerName: weft.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec: {gatewayClassName: weft, listeners: [{name: http, protocol: HTTP, port: 80}]}
`

const aPool = `---
apiVersion: weft.io/v1alpha1
kind: AddressPool
metadata: {name: edge}
spec: {addresses: [192.0.2.1]}
`

// translated gives a node whose tables are what becomes of a manifest.
func translated(t *testing.T, manifest string) api.Node {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	db := state.NewDB()
	objs, quiet := kube.NewObjects(db), slog.New(slog.DiscardHandler)
	s := api.Node{State: state.New(db), Objects: objs, Flows: observe.NewStore(1)}
	if err := manifests.NewFolder(dir, objs, manifests.FolderOptions{Log: quiet}).Load(); err != nil {
		t.Fatal(err)
	}
	gateway.New(objs, s.State, gateway.Config{TrustDomain: "td", Addresses: gateway.AddressesOfPools}, quiet).Sync()
	return s
}

// TestAGatewayWithoutAnAddressIsSaid by the metric, by status and by the check, and is no fault of the node.
func TestAGatewayWithoutAnAddressIsSaid(t *testing.T) {
	for _, c := range []struct {
		name, manifest, metric, trouble string
	}{
		{"no pool", aGateway, "weft_gateways{address=\"no\"} 1\nweft_gateways{address=\"yes\"} 0\n", "AddressNotAssigned"},
		{"a pool", aGateway + aPool, "weft_gateways{address=\"no\"} 0\nweft_gateways{address=\"yes\"} 1\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := translated(t, c.manifest)
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(node{s})
			if err := testutil.GatherAndCompare(registry, strings.NewReader(
				"# HELP weft_gateways Gateways, by whether they have an address.\n# TYPE weft_gateways gauge\n"+c.metric), "weft_gateways"); err != nil {
				t.Error(err)
			}
			status := api.NewStatus(s, time.Now())
			if strings.Contains(strings.Join(status.Faults, "\n"), "Gateway") {
				t.Errorf("it is a fault of the node: %v", status.Faults)
			}
			said := ""
			for _, tr := range status.Troubles {
				if tr.Object.Kind == "Gateway" {
					said += tr.Reason
				}
			}
			if c.trouble == "" && said != "" || !strings.Contains(said, c.trouble) {
				t.Errorf("status says %q, want %q", said, c.trouble)
			}
			warned := false
			i := check.Installed{Installation: survey.Installation{Pods: []survey.Pod{{}}}, Agents: []check.Agent{{Node: "n1", Status: status}}}
			for _, r := range i.Check() {
				warned = warned || r.Name == "Gateways" && strings.Contains(r.Found, "edge/public")
			}
			if warned != (c.trouble != "") {
				t.Errorf("the check warns: %t", warned)
			}
		})
	}
}
