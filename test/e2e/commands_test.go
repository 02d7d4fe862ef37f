//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/testenv"
)

// workstation runs weft beside a kubeconfig, as a user does who is on no node.
type workstation struct {
	t    *testing.T
	weft string
}

func newWorkstation(t *testing.T) *workstation {
	return &workstation{t, testenv.Weft(t)}
}

// run gives standard output, and the exit status.
func (w *workstation) run(args ...string) (string, int) {
	w.t.Helper()
	return w.runWithin(time.Minute, args...)
}

func (w *workstation) runWithin(d time.Duration, args ...string) (string, int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.weft, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+mesh.API.Kubeconfig)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("weft %s: %v", strings.Join(args, " "), err)
	}
	if stderr.Len() > 0 {
		w.t.Logf("weft %s: %s", strings.Join(args, " "), stderr.String())
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestCommands asks the cluster what users ask it.
func TestCommands(t *testing.T) {
	w := newWorkstation(t)
	namespace(t, "e2e-commands", "")
	apply(t, `apiVersion: v1
kind: Service
metadata: {name: web, namespace: e2e-commands}
spec: {selector: {app: none}, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: refused, namespace: e2e-commands}
spec: {parentRefs: [{group: "", kind: Service, name: web}], rules: [{backendRefs: [{name: nothing, port: 80}]}]}
`)
	nodes := mesh.Nodes()
	t.Run("check", func(t *testing.T) {
		eventually(t, settle, func() error {
			out, code := w.run("check")
			if code != 0 || strings.Count(out, "FAIL") != 0 || !strings.Contains(out, strings.Join(nodes, ", ")) || !strings.Contains(out, "CNI plugin in ") {
				return fmt.Errorf("exit status %d:\n%s", code, out)
			}
			return nil
		})
	})
	t.Run("check in a namespace without it", func(t *testing.T) {
		if out, code := w.run("check", "--mesh-namespace", "e2e-commands"); code != 1 || !strings.Contains(out, "is not installed in namespace e2e-commands") {
			t.Errorf("exit status %d:\n%s", code, out)
		}
	})
	t.Run("status", func(t *testing.T) {
		eventually(t, settle, func() error {
			out, code := w.run("status")
			for _, want := range append(nodes, "Workloads ", "HTTPRoute/e2e-commands/refused", "BackendNotFound") {
				if !strings.Contains(out, want) {
					return fmt.Errorf("exit status %d, no %q in\n%s", code, want, out)
				}
			}
			return nil
		})
		if out, _ := w.run("status", "--node", nodes[0]); !strings.Contains(out, "Node ") || !strings.Contains(out, nodes[0]+", ") || !strings.Contains(out, "BPF maps") {
			t.Errorf("of one node:\n%s", out)
		}
	})
	t.Run("config", func(t *testing.T) {
		var lists []struct {
			Nodes []string
			Items []struct{ Namespace, Name string }
		}
		eventually(t, settle, func() error {
			out, _ := w.run("config", "services", "-n", "e2e-commands", "-o", "json")
			if err := json.Unmarshal([]byte(out), &lists); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			if len(lists) != 1 || !slices.Equal(lists[0].Nodes, nodes) || len(lists[0].Items) != 1 || lists[0].Items[0].Name != "web" {
				return fmt.Errorf("lists %+v", lists)
			}
			return nil
		})
		if out, code := w.run("config", "services", "--node", nodes[1], "-n", "default"); code != 0 || !strings.Contains(out, "kubernetes") {
			t.Errorf("of one node: exit status %d:\n%s", code, out)
		}
	})
	t.Run("describe", func(t *testing.T) {
		pod := strings.TrimPrefix(kubectl(t, "get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "name"), "pod/")
		for args, all := range map[string][]string{
			"route e2e-commands/refused":                                            {"Service/e2e-commands/web", "BackendNotFound", "make the Service"},
			"service web -n e2e-commands":                                           {"80/TCP", "HTTPRoute/e2e-commands/refused", "port 80 has no ready endpoint"},
			"pod kube-system/" + strings.TrimSpace(strings.SplitN(pod, "\n", 2)[0]): {"mTLS mode:", "kube-system/kube-dns:53/TCP", "Problems: none"},
		} {
			out, code := w.run(append([]string{"describe"}, strings.Fields(args)...)...)
			for _, want := range all {
				if code != 0 || !strings.Contains(out, want) {
					t.Errorf("weft describe %s: exit status %d, no %q in\n%s", args, code, want, out)
				}
			}
		}
	})
	t.Run("observe", func(t *testing.T) {
		eventually(t, settle, func() error {
			out, code := w.run("observe", "--both-ends", "--last", "200")
			for _, n := range nodes {
				if !strings.Contains(out, n+"  ") {
					return fmt.Errorf("exit status %d, no flow of node %s in\n%s", code, n, out)
				}
			}
			return nil
		})
	})
	t.Run("proxy-config", func(t *testing.T) {
		if out, code := w.run("proxy-config", "clusters"); code == 0 {
			t.Errorf("of no node in particular: exit status 0:\n%s", out)
		}
		for _, n := range nodes {
			if out, code := w.run("proxy-config", "clusters", "--node", n); code != 0 || !strings.Contains(out, "xds") {
				t.Errorf("of %s: exit status %d:\n%s", n, code, out)
			}
		}
		if out, code := w.run("proxy-config", "log-level", "--node", nodes[0]); code != 0 || !strings.Contains(out, "warning") {
			t.Errorf("log levels: exit status %d:\n%s", code, out)
		}
	})
	t.Run("sysdump", func(t *testing.T) { sysdump(t, w, nodes) })
	t.Run("connectivity test", func(t *testing.T) { connectivityTest(t, w) })
}

// sysdump wants an archive in which nothing is missing and nothing is secret.
func sysdump(t *testing.T, w *workstation, nodes []string) {
	file := filepath.Join(t.TempDir(), "dump.tar.gz")
	out, code := w.run("sysdump", "-f", file)
	dir := t.TempDir()
	if text, err := exec.Command("tar", "-C", dir, "--strip-components=1", "-xzf", file).CombinedOutput(); err != nil {
		t.Fatalf("exit status %d, %s: %v: %s", code, out, err, text)
	}
	if missing, err := os.ReadFile(filepath.Join(dir, "errors.txt")); err == nil || code != 0 {
		t.Errorf("exit status %d: %s", code, missing)
	}
	for _, name := range []string{"check.txt", "cluster/pods.json", "cluster/events.json", "nodes/" + nodes[0] + "/status.json", "nodes/" + nodes[1] + "/envoy/dump.json"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() < 10 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	logs, err := filepath.Glob(filepath.Join(dir, "logs/weft-agent-*/agent.log"))
	if err != nil || len(logs) < len(nodes) {
		t.Errorf("logs of agents: %v, %v", logs, err)
	}
	if found, err := exec.Command("grep", "-rl", "PRIVATE KEY-----", dir).Output(); err == nil {
		t.Errorf("private keys are in %s", found)
	}
}

// connectivityTest wants every case to be right, and nothing left of it.
func connectivityTest(t *testing.T, w *workstation) {
	out, code := w.runWithin(6*time.Minute, "connectivity", "test", "-o", "json")
	var results []struct{ Group, Name, Error string }
	if err := json.Unmarshal([]byte(out), &results); err != nil {
		t.Fatalf("exit status %d: %v: %s", code, err, out)
	}
	groups := map[string]int{}
	for _, r := range results {
		groups[r.Group]++
		if r.Error != "" {
			t.Errorf("%s, %s: %s", r.Group, r.Name, r.Error)
		}
	}
	for _, g := range []string{"kernel", "routes", "mTLS", "policy"} {
		if groups[g] < 3 || code != 0 {
			t.Errorf("exit status %d, cases %v", code, groups)
		}
	}
	if groups["DNS"] < 2 {
		t.Errorf("cases %v", groups)
	}
	if left := kubectl(t, "get", "namespaces", "-l", "weft.io/connectivity-test", "-o", "name"); strings.TrimSpace(left) != "" {
		t.Errorf("left: %s", left)
	}
}
