//go:build cluster

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const controller = "deployment/weft-controller"

// TestCADown takes all replicas of the CA away and restarts every agent. What has a certificate goes on, over new
// connections too; a pod whose identity has none yet waits, says why, and starts when the CA is back.
func TestCADown(t *testing.T) {
	all := background(t)
	ns := "e2e-late"
	namespace(t, ns, "weft.io/mtls: strict")
	deploy(t, deployment{namespace: ns, name: "client", node: "n1"})
	f := begin(t, all...)
	t.Cleanup(func() {
		kubectl(t, "-n", system, "scale", controller, "--replicas=2")
		rolledOut(t, system, controller)
	})
	kubectl(t, "-n", system, "scale", controller, "--replicas=0")
	eventually(t, settle, func() error {
		if left := allPods(t, system, "app.kubernetes.io/component=controller"); len(left) > 0 {
			return fmt.Errorf("%d controllers still run", len(left))
		}
		return nil
	})
	kubectl(t, "-n", system, "rollout", "restart", "daemonset/weft-agent")
	rolledOut(t, system, "daemonset/weft-agent")

	apply(t, service(ns, "web", "web")+deployment{namespace: ns, name: "web", node: "n2", account: "fresh"}.manifest())
	eventually(t, settle, func() error {
		pods := allPods(t, ns, "deployment=web")
		if len(pods) != 1 {
			return fmt.Errorf("%d pods", len(pods))
		}
		pod := pods[0].Metadata.Name
		all := strings.Join(events(t, ns, "Pod", pod), "\n")
		if !strings.Contains(all, "is still waiting for its certificate: no replica of the CA is known") {
			return fmt.Errorf("no event of pod %s says what it waits for: %s", pod, all)
		}
		return nil
	})
	kubectl(t, "-n", system, "scale", controller, "--replicas=2")
	back := time.Now()
	rolledOut(t, system, controller)
	rolledOut(t, ns, "deployment/web")
	works(t, inside(t, ns, "mTLS bytes", "web"))
	measured(t, "from the CA's return to the answer of the pod that waited", time.Since(back))
	keepFlowing(5 * time.Second)
	f.end()
}

// TestRotationUnderLoad has certificates live 20 s, so that each is renewed every 10 s, while pods on both nodes talk; then
// another root comes into the bundle, and goes.
func TestRotationUnderLoad(t *testing.T) {
	const life = 20 * time.Second
	t.Cleanup(func() { svidTTL(t, time.Hour) })
	svidTTL(t, life)
	ns := "e2e-turn"
	namespace(t, ns, "weft.io/mtls: strict")
	apply(t, service(ns, "web", "web")+service(ns, "bytes", "web")+route(ns, "web", "web", backend{"web", 1}))
	deploy(t, deployment{namespace: ns, name: "web", replicas: 2, account: "web"}, deployment{namespace: ns, name: "client", node: "n1"})
	all := append(inside(t, ns, "mTLS route", "web"), inside(t, ns, "mTLS bytes", "bytes")...)
	works(t, all)
	before := serials(t, ns)
	if len(before) != 3 { // the client's on n1, the servers' on both nodes
		t.Fatalf("certificates of namespace %s: %v", ns, before)
	}
	f := begin(t, all...)
	for range 3 {
		keepFlowing(life)
		now := serials(t, ns)
		for who, serial := range now {
			if before[who] == serial {
				t.Errorf("%s: serial %s was not renewed in %v", who, serial, life)
			}
		}
		before = now
	}
	anotherRoot(t)
	f.end()
}

// anotherRoot asks for the CA's next root, waits until each node's Envoy trusts both, and takes it out again: it would
// not sign before tomorrow.
func anotherRoot(t *testing.T) {
	t.Helper()
	firstRoot(t) // a run that was broken off may have left the second
	t.Cleanup(func() { firstRoot(t) })
	asked := time.Now()
	kubectl(t, "-n", system, "annotate", "secret", "weft-ca", "weft.io/next-root=2")
	trusted(t, 2)
	measured(t, "from asking for a root to its trust on all nodes", time.Since(asked))
	keepFlowing(5 * time.Second)
}

// firstRoot makes the first root the only one.
func firstRoot(t *testing.T) {
	t.Helper()
	kubectl(t, "-n", system, "patch", "secret", "weft-ca", "--type=merge", "-p", `{"metadata": {"annotations": {"weft.io/next-root": null}}, "data": {"root-2.pem": null}}`)
	trusted(t, 1)
}

// trusted waits until all nodes trust so many roots.
func trusted(t *testing.T, want int) {
	t.Helper()
	eventually(t, 2*settle, func() error {
		if n := roots(t); n != want {
			return fmt.Errorf("%d roots are trusted, want %d", n, want)
		}
		return nil
	})
}

// roots gives how many roots all nodes trust; -1 where they differ.
func roots(t *testing.T) int {
	t.Helper()
	all := map[int]bool{}
	for _, p := range allPods(t, system, agentLabel) {
		n := 0
		for _, c := range certificates(t, p.Metadata.Name) {
			if c.Kind == "Bundle" {
				n++
			}
		}
		all[n] = true
	}
	if len(all) != 1 {
		return -1
	}
	for n := range all {
		return n
	}
	return -1
}

// certificate is a line of weft config certificates.
type certificate struct{ Kind, Name, Serial string }

func certificates(t *testing.T, agent string, args ...string) []certificate {
	t.Helper()
	var lists []struct{ Items []certificate }
	text := kubectl(t, append([]string{"-n", system, "exec", agent, "--", "weft", "config", "certificates", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(text), &lists); err != nil || len(lists) != 1 {
		t.Fatalf("%d lists, %v: %s", len(lists), err, text)
	}
	return lists[0].Items
}

// svidTTL sets the life of certificates by the controller's flag.
func svidTTL(t *testing.T, d time.Duration) {
	t.Helper()
	var args []string
	if err := json.Unmarshal([]byte(kubectl(t, "-n", system, "get", controller, "-o", "jsonpath={.spec.template.spec.containers[0].args}")), &args); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "--svid-ttl=") })
	if i < 0 {
		t.Fatalf("the controller has no --svid-ttl: %q", args)
	}
	patch := fmt.Sprintf(`[{"op": "replace", "path": "/spec/template/spec/containers/0/args/%d", "value": "--svid-ttl=%s"}]`, i, d)
	kubectl(t, "-n", system, "patch", controller, "--type=json", "-p", patch)
	rolledOut(t, system, controller)
}

// serials gives the serial numbers of a namespace's certificates by node and SPIFFE ID.
func serials(t *testing.T, ns string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, p := range allPods(t, system, agentLabel) {
		for _, c := range certificates(t, p.Metadata.Name, "-n", ns) {
			if c.Kind == "SVID" {
				out[p.Spec.NodeName+" "+c.Name] = c.Serial
			}
		}
	}
	return out
}
