package cli

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unpack reads an archive: text by name, without the root folder.
func unpack(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		out[name] = string(text)
		for _, secret := range []string{"SECRET", "PRIVATE KEY", "hunter2"} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s holds %s", h.Name, secret)
			}
		}
	}
}

// nodeNames are the files of one node.
var nodeNames = []string{
	"status.json", "config/services.json", "config/routes.json", "config/endpoints.json", "config/identities.json",
	"config/certificates.json", "config/policies.json", "config/gateways.json", "config/status.json",
	"envoy/dump.json", "envoy/clusters.json", "flows.jsonl",
}

func TestSysdumpOfNode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dump.tar.gz")
	out, err := run(t, "sysdump", "-f", file, "--run", serve(t, healthyNode()))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := unpack(t, file)
	for _, name := range nodeNames {
		if got["node/"+name] == "" {
			t.Errorf("%s is missing or empty", name)
		}
	}
	if !strings.Contains(got["node/flows.jsonl"], "not authenticated") || !strings.Contains(got["version.json"], "v1.2.3") {
		t.Errorf("%s\n%s", got["node/flows.jsonl"], got["version.json"])
	}
	if _, err := run(t, "sysdump", "-f", file, "--run", serve(t, healthyNode())); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an archive that is there: %v", err)
	}
	missing := filepath.Join(t.TempDir(), "none.tar.gz")
	if _, err := run(t, "sysdump", "-f", missing, "--run", t.TempDir()); err == nil {
		t.Error("no agent runs, and that is no error")
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an archive of nothing is left: %v", err)
	}
}

// TestSysdumpOfCluster: two agents answer, a third does not, and one log cannot be had.
func TestSysdumpOfCluster(t *testing.T) {
	kubeconfig := meshOf(t, map[string]string{"worker-1": serve(t, healthyNode()), "worker-2": serve(t, sickNode()), "worker-3": "/nowhere"})
	file := filepath.Join(t.TempDir(), "dump.tar.gz")
	out, err := run(t, "sysdump", "-f", file, "--kubeconfig", kubeconfig)
	if !errors.Is(err, ErrUnhealthy) {
		t.Fatalf("%v: %s", err, out)
	}
	got := unpack(t, file)
	for _, node := range []string{"worker-1", "worker-2"} {
		for _, name := range nodeNames {
			if got["nodes/"+node+"/"+name] == "" {
				t.Errorf("%s of %s is missing or empty", name, node)
			}
		}
	}
	for name, part := range map[string]string{
		"check.txt": "worker-3", "cluster/pods.json": "weft-agent-worker-1", "cluster/nodes.json": "worker-4",
		"logs/weft-agent-worker-1/agent.log": "started", "logs/weft-agent-worker-1/agent.previous.log": "started",
		"errors.txt": "nodes/worker-3", "version.json": "v1.2.3",
	} {
		if !strings.Contains(got[name], part) {
			t.Errorf("%s does not hold %q: %.300s", name, part, got[name])
		}
	}
	lines := strings.Split(strings.TrimSpace(got["errors.txt"]), "\n")
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "logs/weft-agent-worker-2/agent.log: ") }) || len(lines) != 5 {
		t.Errorf("errors.txt: %s", got["errors.txt"])
	}
}
