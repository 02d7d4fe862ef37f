//go:build cluster

package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// churning are the background flows that must never fail while the pods that serve them come and go: all but kept
// connections without a route, which break without a mesh too when their server ends.
func churning(t testing.TB) []flow {
	t.Helper()
	return without(background(t), "kernel, kept", "mTLS bytes, kept")
}

func without(all []flow, names ...string) []flow {
	return slices.DeleteFunc(slices.Clone(all), func(f flow) bool { return slices.Contains(names, f.name) })
}

// TestRestartedWhileRolling restarts each part of the mesh while the Deployments roll that it serves.
func TestRestartedWhileRolling(t *testing.T) {
	all := churning(t)
	for _, part := range parts {
		t.Run(part, func(t *testing.T) {
			f := begin(t, all...)
			began := time.Now()
			kubectl(t, "-n", system, "rollout", "restart", part)
			for range 2 {
				for _, ns := range []string{plain, strict} {
					kubectl(t, "-n", ns, "rollout", "restart", "deployment/web")
				}
				for _, ns := range []string{plain, strict} {
					rolledOut(t, ns, "deployment/web")
				}
			}
			rolledOut(t, system, part)
			measured(t, "rollouts", time.Since(began))
			keepFlowing(2 * time.Second)
			f.end()
		})
	}
}

// TestScaled scales the Deployments between 2 and 8 pods every 5 seconds.
func TestScaled(t *testing.T) {
	all := churning(t)
	t.Cleanup(func() {
		for _, ns := range []string{plain, strict} {
			kubectl(t, "-n", ns, "scale", "deployment/web", "--replicas=2")
			rolledOut(t, ns, "deployment/web")
		}
	})
	f := begin(t, all...)
	for i := range 6 {
		for _, ns := range []string{plain, strict} {
			kubectl(t, "-n", ns, "scale", "deployment/web", fmt.Sprintf("--replicas=%d", 8-6*(i%2)))
		}
		keepFlowing(5 * time.Second)
	}
	f.end()
}

// TestRoutesAndPoliciesComeAndGo makes and deletes a route of a Service in use, and a policy that allows its clients.
func TestRoutesAndPoliciesComeAndGo(t *testing.T) {
	all := background(t)
	f := begin(t, all...)
	for i := range 6 {
		for _, ns := range []string{plain, strict} {
			apply(t, route(ns, "churn", "bytes", backend{"web", 1}))
		}
		apply(t, allowClients)
		keepFlowing(time.Second)
		if i%2 == 0 {
			apply(t, route(plain, "churn", "bytes", backend{"bytes", 1}))
			keepFlowing(time.Second)
		}
		for _, ns := range []string{plain, strict} {
			kubectl(t, "-n", ns, "delete", "httproute", "churn")
		}
		kubectl(t, "-n", strict, "delete", "authorizationpolicy", "churn")
		keepFlowing(time.Second)
	}
	f.end()
}

// TestModesFlip changes a namespace's mode, with clients and servers in it, through all modes and back. Kept connections
// of bytes are not among the load: strict ends those that came in the clear.
func TestModesFlip(t *testing.T) {
	const ns = "e2e-flip"
	namespace(t, ns, "weft.io/mtls: disabled")
	apply(t, service(ns, "web", "web")+service(ns, "bytes", "web")+route(ns, "web", "web", backend{"web", 1}))
	deploy(t, deployment{namespace: ns, name: "web", replicas: 2}, deployment{namespace: ns, name: "client", node: "n1"})
	all := without(append(inside(t, ns, "route", "web"), inside(t, ns, "bytes", "bytes")...), "bytes, kept")
	works(t, all)
	for i := range all {
		if all[i].name == "bytes, new" {
			all[i].mayFail = 2 // docs/design/changes.md, Known faults
		}
	}
	f := begin(t, all...)
	for _, mode := range []string{"permissive", "strict", "permissive", "disabled", "permissive", "disabled"} {
		kubectl(t, "label", "--overwrite", "namespace", ns, "weft.io/mtls="+mode)
		keepFlowing(4 * time.Second)
	}
	f.end()
}

// allowClients admits the flows' clients to the strict namespace's servers, by name.
const allowClients = `---
apiVersion: weft.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: churn, namespace: ` + strict + `}
spec:
  targetRefs: [{kind: Service, name: web}]
  action: ALLOW
  rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: default}}]}]
`
