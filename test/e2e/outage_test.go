//go:build cluster

package e2e

import (
	"context"
	"testing"
	"time"
)

// outage is how long the API server is down: longer than any Lease of the mesh and of nodes lasts.
const outage = 75 * time.Second

// TestAPIServerDown ends the API server for a while. What is known goes on, over new connections too; once the API
// server is back, nodes hear of changes again.
func TestAPIServerDown(t *testing.T) {
	all := background(t)
	f := begin(t, all...)
	t.Cleanup(func() {
		if err := mesh.StartAPIServer(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	mesh.StopAPIServer()
	if _, err := mesh.Kubectl(t.Context(), nil, "get", "nodes"); err == nil {
		t.Error("the API server answers during its outage")
	}
	keepFlowing(outage)
	if err := mesh.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	ns := "e2e-after"
	namespace(t, ns, "")
	apply(t, service(ns, "web", "web")+route(ns, "web", "web", backend{"web", 1}))
	deploy(t, deployment{namespace: ns, name: "web"}, deployment{namespace: ns, name: "client", node: "n1"})
	works(t, inside(t, ns, "route", "web"))
	measured(t, "from the API server's return to the answer of a workload made since", time.Since(back))
	keepFlowing(30 * time.Second) // who was thought dead meanwhile is found alive
	f.end()
}
