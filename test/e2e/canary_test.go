//go:build cluster

package e2e

import (
	"testing"

	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/test/e2e/workload"
)

// TestCanaryRolls splits requests 90 to 10 between two Deployments, rolls both meanwhile, as users do that change an
// image, and wants no request of 10,000 to fail: without an identity, and with mutual TLS.
func TestCanaryRolls(t *testing.T) {
	for _, mode := range []string{"disabled", "strict"} {
		t.Run(mode, func(t *testing.T) { canaryRolls(t, "e2e-canary-"+mode, mode) })
	}
}

const canaryRequests = 10_000

func canaryRolls(t *testing.T, ns, mode string) {
	namespace(t, ns, "weft.io/mtls: "+mode)
	apply(t, service(ns, "web", "web")+service(ns, "web-v1", "v1")+service(ns, "web-v2", "v2"))
	apply(t, route(ns, "web", "web", backend{"web-v1", 90}, backend{"web-v2", 10}))
	deploy(t,
		deployment{namespace: ns, name: "v1", replicas: 3}, deployment{namespace: ns, name: "v2", replicas: 2},
		deployment{namespace: ns, name: "client", node: "n1"})
	url := "http://" + clusterIP(t, ns, "web") + "/"
	all := both(flow{name: "canary", namespace: ns, client: "client", spec: workload.Spec{URL: url, Workers: 8, Rate: 150}})
	works(t, all)
	rolls, requests, v1 := 0, 0, 0
	for ; requests < canaryRequests && rolls < 30; rolls++ {
		f := begin(t, all...)
		kubectl(t, "-n", ns, "rollout", "restart", "deployment/v1", "deployment/v2")
		rolledOut(t, ns, "deployment/v1", "deployment/v2")
		for _, s := range f.end() {
			requests += s.Requests
			v1 += s.Backends["v1"]
		}
	}
	measured(t, "rollouts of both Deployments", rolls)
	measured(t, "requests", requests)
	measured(t, "share of v1", float64(v1)/float64(max(requests, 1)))
	if requests < canaryRequests {
		t.Errorf("%d requests were sent, want %d", requests, canaryRequests)
	}
	if !load.Within(v1, requests, 0.9, 4) {
		t.Errorf("v1 answered %d of %d requests, which is not 90 of 100", v1, requests)
	}
}
