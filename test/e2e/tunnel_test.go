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

// sessions lists the connections of a node's pods to weft tunnel in other pods.
const sessions = `
for n in $(ls /run/netns); do
  nsenter --net=/run/netns/$n ss -Htn state established '( dport = :15009 )'
done`

// TestTunnelComesAndGoes changes how authenticated bytes go, from weft tunnel to HBONE and back, under load: as a cluster
// goes back to a version without weft tunnel, and comes from one. In between one node sends by one way and the other by
// another.
func TestTunnelComesAndGoes(t *testing.T) {
	const agent, proxy = "daemonset/weft-agent", "daemonset/weft-proxy"
	const byHBONE, none = "--bytes=hbone", "--tunnel=false"
	all := background(t)
	t.Cleanup(func() {
		withArg(t, agent, byHBONE, false)
		withArg(t, proxy, none, false)
		rolledOut(t, system, agent, proxy)
	})
	f := begin(t, all...)
	usesTunnel(t)
	f.end()
	for _, step := range []struct {
		name          string
		part, arg     string
		there, tunnel bool
	}{
		{"agents send by HBONE", agent, byHBONE, true, false},
		{"nodes have no weft tunnel", proxy, none, true, false},
		{"agents send by weft tunnel, and no node has one", agent, byHBONE, false, false},
		{"nodes have weft tunnel", proxy, none, false, true},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			f := begin(t, all...)
			withArg(t, step.part, step.arg, step.there)
			rolledOut(t, system, step.part)
			keepFlowing(10 * time.Second) // kept connections stay as they are, new ones take the new way
			if step.tunnel {
				usesTunnel(t)
			}
			f.end()
		}) {
			break
		}
	}
}

// usesTunnel waits until a pod of node n1 has a connection to weft tunnel in another pod.
func usesTunnel(t *testing.T) {
	t.Helper()
	eventually(t, settle, func() error {
		if printedOn(t, "n1", sessions) == "" {
			return fmt.Errorf("no pod of node n1 has a connection to weft tunnel")
		}
		return nil
	})
}

// withArg gives a part of the mesh an argument, or takes it away.
func withArg(t *testing.T, part, arg string, there bool) {
	t.Helper()
	var args []string
	if err := json.Unmarshal([]byte(kubectl(t, "-n", system, "get", part, "-o", "jsonpath={.spec.template.spec.containers[0].args}")), &args); err != nil {
		t.Fatal(err)
	}
	i := slices.Index(args, arg)
	if (i >= 0) == there {
		return
	}
	if there {
		args = append(args, arg)
	} else {
		args = slices.Delete(args, i, i+1)
	}
	text, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	patch := fmt.Sprintf(`[{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": %s}]`, text)
	kubectl(t, "-n", system, "patch", part, "--type=json", "-p", patch)
}

// printedOn runs a script on a node and returns what it printed.
func printedOn(t *testing.T, node, script string) string {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	cmd, err := mesh.NodeCommand(ctx, node, "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("on node %s: %v: %s", node, err, out)
	}
	return strings.TrimSpace(string(out))
}
