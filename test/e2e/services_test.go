//go:build cluster

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/test/e2e/workload"
)

// TestServices reaches ClusterIPs without kube-proxy, over TCP and UDP, from a pod, from a pod of the node's network and
// from a process of the node, and cluster DNS by its own ClusterIP.
func TestServices(t *testing.T) {
	ns := "e2e-services"
	namespace(t, ns, "")
	apply(t, service(ns, "web", "web"))
	deploy(t, deployment{namespace: ns, name: "web", replicas: 2}, deployment{namespace: ns, name: "client", node: "n1"},
		deployment{namespace: ns, name: "host", node: "n2", host: true})
	ip := clusterIP(t, ns, "web")
	callers := map[string]func(args ...string) (string, error){
		"pod":          func(args ...string) (string, error) { return in(t, ns, "client", nil, args...) },
		"host network": func(args ...string) (string, error) { return in(t, ns, "host", nil, args...) },
		"node process": func(args ...string) (string, error) { return onNode(t, "n1", args...) },
	}
	for name, run := range callers {
		t.Run(name, func(t *testing.T) {
			for what, args := range map[string][]string{
				"bytes":     {"talk", "tcp", ip + ":70"},
				"datagrams": {"talk", "udp", ip + ":53"},
				"HTTP":      {"call", "http://" + ip + "/"},
			} {
				says(t, what, "web saw", run, args...)
			}
			says(t, "API server", "system:anonymous", run, "call", "https://10.96.0.1/") // who shows it nothing is told so
			if name == "node process" {
				return // a node resolves names by its own name server
			}
			full := fmt.Sprintf("web.%s.svc.cluster.local", ns)
			for _, network := range []string{"udp", "tcp"} {
				says(t, "DNS over "+network, ip, run, "resolve", network, full)
			}
			says(t, "a short name", "web saw", run, "call", "http://web/")
		})
	}
	t.Run("clients keep their address", func(t *testing.T) {
		for _, at := range []string{"tcp " + ip + ":70", "udp " + ip + ":53"} {
			line, err := in(t, ns, "client", nil, append([]string{"talk"}, strings.Fields(at)...)...)
			if own := podOf(t, ns, "client").Status.PodIP; err != nil || !strings.Contains(line, "saw "+own+":") {
				t.Errorf("%s: the server says %q (%v), want client %s", at, line, err, own)
			}
		}
	})
	t.Run("all backends", func(t *testing.T) { reachesAll(t, ns, ip) })
}

// says runs a command until it prints what is expected.
func says(t *testing.T, what, want string, run func(args ...string) (string, error), args ...string) {
	t.Helper()
	eventually(t, settle, func() error {
		out, err := run(args...)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if !strings.Contains(out, want) {
			return fmt.Errorf("%s: %q, want %q in it", what, out, want)
		}
		return nil
	})
}

// reachesAll sees that connections spread over the nodes: the servers see them come, and say so.
func reachesAll(t *testing.T, ns, ip string) {
	f := begin(t, flow{name: "spread", namespace: ns, client: "client",
		spec: workload.Spec{URL: "http://" + ip + "/", Workers: 1, Rate: 100, NewConnections: true}})
	keepFlowing(rounds)
	f.end()
	client := podOf(t, ns, "client").Status.PodIP
	for _, p := range podsOf(t, ns, "deployment=web") {
		out, err := mesh.Kubectl(t.Context(), nil, "-n", ns, "exec", p.Metadata.Name, "--", workloadPath, "peers")
		if err != nil || !strings.Contains(string(out), client) {
			t.Errorf("pod %s on %s accepted connections from %s (%v), want %s among them", p.Metadata.Name, p.Spec.NodeName, out, err, client)
		}
	}
}
