//go:build cluster

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/test/e2e/workload"
)

// TestProbes runs a strict pod whose kubelet probes it and calls its hook, and asks for the same from elsewhere. The pod
// would not become ready without its probe.
func TestProbes(t *testing.T) {
	ns, street := "e2e-probes", "e2e-probes-street"
	namespace(t, ns, "weft.io/mtls: strict")
	namespace(t, street, "")
	deploy(t, deployment{namespace: ns, name: "vault", node: "n1", hook: true},
		deployment{namespace: street, name: "host", node: "n1", host: true})
	vault := podOf(t, ns, "vault")
	at := fmt.Sprintf("http://%s:%d", vault.Status.PodIP, workload.PortHTTP)
	for _, path := range []string{"/", "/drain"} {
		if a := asNode(t, "n1", at+path); !strings.HasPrefix(a.Body, "vault saw GET") {
			t.Errorf("a process of the node asks for %s: %+v", path, a)
		}
		if a := call(t, street, "host", at+path); a.Status != 0 {
			t.Errorf("a pod in the host's network is answered %s: %+v", path, a)
		}
	}
	for _, path := range []string{"/admin", "/drain?now", "//"} {
		if a := asNode(t, "n1", at+path); a.Status != 0 || !strings.Contains(a.Error, "permission denied") {
			t.Errorf("a process of the node asks for %s, which is not declared: %+v", path, a)
		}
	}
	if a := asNode(t, "n2", at+"/"); a.Status != 0 {
		t.Errorf("another node is answered: %+v", a)
	}
	remove(t, "v1", "Pod", ns, vault.Metadata.Name)
	gone(t, "v1", "Pod", ns, vault.Metadata.Name)
	for _, e := range events(t, ns, "Pod", vault.Metadata.Name) {
		if strings.Contains(e, "FailedPreStopHook") {
			t.Errorf("the hook failed: %s", e)
		}
	}
}

// asNode sends one request from a process of a node.
func asNode(t *testing.T, node, url string) (a workload.Answer) {
	t.Helper()
	out, err := onNode(t, node, "call", url)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return a
}
