//go:build cluster

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestAgentDown takes n2's agent away. Pods of strict namespaces do not start without it, and say why; others do, and
// join once it is back, without a restart.
func TestAgentDown(t *testing.T) {
	open, closed, unknown := "e2e-open", "e2e-closed", "e2e-unknown"
	namespace(t, open, "")
	namespace(t, closed, "weft.io/mtls: strict")
	deploy(t, deployment{namespace: open, name: "client", node: "n1"}, deployment{namespace: closed, name: "client", node: "n1"})
	deploy(t, deployment{namespace: closed, name: "seen", node: "n2"}) // n2's agent knows the namespace
	withoutAgent(t, "n2")

	namespace(t, unknown, "weft.io/mtls: strict")
	apply(t, deployment{namespace: open, name: "web", node: "n2"}.manifest())
	apply(t, deployment{namespace: closed, name: "web", node: "n2"}.manifest())
	apply(t, deployment{namespace: unknown, name: "web", node: "n2"}.manifest())
	t.Run("others proceed", func(t *testing.T) { rolledOut(t, open, "deployment/web") })
	for name, ns := range map[string]string{"strict": closed, "unknown": unknown} {
		t.Run(name, func(t *testing.T) { refused(t, ns) })
	}
	withAgent(t)
	t.Run("then all start", func(t *testing.T) {
		rolledOut(t, closed, "deployment/web")
		rolledOut(t, unknown, "deployment/web")
	})
	t.Run("who ran before joins", func(t *testing.T) { joins(t, open) })
}

// refused sees that a namespace's pod does not start, for a reason that its events tell.
func refused(t *testing.T, ns string) {
	eventually(t, settle, func() error {
		p := podOf(t, ns, "web")
		all := events(t, ns, "Pod", p.Metadata.Name)
		for _, e := range all {
			if strings.Contains(e, "FailedCreatePodSandBox") && strings.Contains(e, "weft") {
				t.Log(e)
				return nil
			}
		}
		return fmt.Errorf("no event of pod %s names weft: %q", p.Metadata.Name, all)
	})
	if p := podOf(t, ns, "web"); p.Status.Phase != "Pending" || p.Status.PodIP != "" {
		t.Errorf("pod %s is %s with address %q, want Pending without", p.Metadata.Name, p.Status.Phase, p.Status.PodIP)
	}
}

// joins makes a namespace strict whose pod on n2 was started without an agent.
func joins(t *testing.T, ns string) {
	web := podOf(t, ns, "web")
	url := "http://" + web.Status.PodIP + ":8080/"
	background(t) // has a client without an identity
	kubectl(t, "label", "namespace", ns, "weft.io/mtls=strict")
	took := eventually(t, settle, func() error {
		if a := call(t, plain, "client", url); a.Status != 0 {
			return fmt.Errorf("pod %s answers in the clear: %+v", web.Metadata.Name, a)
		}
		if a := call(t, ns, "client", url); a.Status != 200 {
			return fmt.Errorf("pod %s does not answer who has an identity: %+v", web.Metadata.Name, a)
		}
		return nil
	})
	measured(t, "from the label to mutual TLS", took)
	if now := podOf(t, ns, "web"); now.Metadata.UID != web.Metadata.UID || now.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("pod %s was restarted or replaced", web.Metadata.Name)
	}
}

// withoutAgent ends a node's agent, and keeps a new one from starting there: the DaemonSet does not want the node any
// more, and leaves the others alone.
func withoutAgent(t *testing.T, node string) {
	t.Helper()
	t.Cleanup(func() { withAgent(t) })
	patchAgent(t, `{"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}, "template": {"spec": {"affinity": {"nodeAffinity":
		{"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions":
		[{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["`+node+`"]}]}]}}}}}}}`)
	eventually(t, settle, func() error {
		for _, p := range allPods(t, system, agentLabel) {
			if p.Spec.NodeName == node {
				return fmt.Errorf("agent %s still runs on %s", p.Metadata.Name, node)
			}
		}
		return nil
	})
}

// withAgent undoes withoutAgent.
func withAgent(t *testing.T) {
	t.Helper()
	patchAgent(t, `{"spec": {"updateStrategy": {"type": "RollingUpdate"}, "template": {"spec": {"affinity": null}}}}`)
	eventually(t, settle, func() error {
		if got, want := len(podsOf(t, system, agentLabel)), len(mesh.Nodes()); got != want {
			return fmt.Errorf("%d agents run, want %d", got, want)
		}
		return nil
	})
	rolledOut(t, system, "daemonset/weft-agent")
}

func patchAgent(t *testing.T, patch string) {
	t.Helper()
	kubectl(t, "-n", system, "patch", "daemonset", "weft-agent", "--type=merge", "-p", patch)
}

// TestCNIFileRewritten lets another installer write a node's CNI configuration anew: the plugin comes back into it, and
// what starts then is in the mesh.
func TestCNIFileRewritten(t *testing.T) {
	background(t)
	if conf := cniConf(t, "n2"); !strings.Contains(conf, "weft-cni") {
		t.Fatalf("the plugin is not in the CNI configuration:\n%s", conf)
	}
	without := `{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
"hairpinMode": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.2.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`
	onMachine(t, "n2", without, "sh", "-c", "cat > /etc/cni/net.d/10-bridge.conflist")
	took := eventually(t, settle, func() error {
		if conf := cniConf(t, "n2"); !strings.Contains(conf, "weft-cni") {
			return fmt.Errorf("the plugin is not back in\n%s", conf)
		}
		return nil
	})
	measured(t, "from the rewrite to the plugin's return", took)
	ns := "e2e-rewritten"
	namespace(t, ns, "weft.io/mtls: strict")
	deploy(t, deployment{namespace: ns, name: "web", node: "n2"}, deployment{namespace: ns, name: "client", node: "n1"})
	url := "http://" + podOf(t, ns, "web").Status.PodIP + ":8080/"
	if a := call(t, ns, "client", url); a.Status != 200 {
		t.Errorf("a pod made since then does not answer: %+v", a)
	}
	if a := call(t, plain, "client", url); a.Status != 0 {
		t.Errorf("a pod made since then answers in the clear: %+v", a)
	}
}

// cniConf is what a node's container runtime reads: the first file by name.
func cniConf(t *testing.T, node string) string {
	t.Helper()
	return onMachine(t, node, "", "sh", "-c", `cat "$(ls /etc/cni/net.d/*.conf* | head -1)"`)
}

func onMachine(t *testing.T, node, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	cmd, err := mesh.NodeCommand(ctx, node, args...)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("on %s: %v: %s", node, err, out)
	}
	return string(out)
}
