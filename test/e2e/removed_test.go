//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// leftovers lists what Weft has on a node, but for the key of a CA of the node's own.
const leftovers = `
ls -d /run/weft/* /opt/cni/bin/weft-cni /etc/cni/net.d/*.weft /sys/fs/bpf/weft /run/cgroup2/weft-proxy 2>/dev/null
ls -d /var/lib/weft/* 2>/dev/null | grep -v '/ca$'
grep -l weft-cni /etc/cni/net.d/* 2>/dev/null
for n in $(ls /run/netns); do
  ip -n $n rule list priority 1337; ip -n $n -6 rule list priority 1337
  ip -n $n route show table 100 2>/dev/null; ip -n $n -6 route show table 100 2>/dev/null
done
ip route show table local proto 119; ip -6 route show table local proto 119
true`

// TestRemoved takes Weft off the nodes: nothing of it is left there, pods run on, and it comes back.
func TestRemoved(t *testing.T) {
	ns, street := "e2e-removed", "e2e-removed-street"
	namespace(t, ns, "weft.io/mtls: strict")
	namespace(t, street, "")
	deploy(t, deployment{namespace: ns, name: "vault", node: "n2"}, deployment{namespace: street, name: "passerby", node: "n1"})
	at := "http://" + podOf(t, ns, "vault").Status.PodIP + ":8080/"
	eventually(t, settle, func() error {
		if a := call(t, street, "passerby", at); a.Status != 0 {
			return fmt.Errorf("who has no identity is answered: %+v", a)
		}
		return nil
	})
	for _, node := range mesh.Nodes() {
		if left(t, node) == "" {
			t.Errorf("nothing is found on node %s while Weft runs there", node)
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), upTimeout)
	defer cancel()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), upTimeout)
		defer cancel()
		if err := mesh.install(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := mesh.RemoveWeft(ctx); err != nil {
		t.Fatal(err)
	}
	for _, node := range mesh.Nodes() {
		if l := left(t, node); l != "" {
			t.Errorf("left on node %s:\n%s", node, l)
		}
	}
	eventually(t, settle, func() error {
		if a := call(t, street, "passerby", at); a.Status != 200 {
			return fmt.Errorf("without a mesh the pod is called: %+v", a)
		}
		return nil
	})
	if p := podOf(t, ns, "vault"); p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("the pod was restarted")
	}
}

// left gives what a node holds of Weft.
func left(t *testing.T, node string) string {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	cmd, err := mesh.NodeCommand(ctx, node, "sh", "-c", leftovers)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("look at node %s: %v: %s", node, err, out)
	}
	return strings.TrimSpace(string(out))
}
