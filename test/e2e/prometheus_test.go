//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// scraping reads the pods that ask for it by their annotations, as the usual configuration for a cluster does, and Envoys'
// own pages beside. Debian's Prometheus cannot find pods by itself.
const scraping = `
global: {scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 2s}
rule_files: [%s]
scrape_configs:
  - job_name: pods
    static_configs: [{targets: [%s]}]
  - job_name: envoys
    metrics_path: /metrics/proxy
    static_configs: [{targets: [%s]}]
`

// scraped returns the addresses of the pods of Weft that ask for it, and those of its agents.
func scraped(t *testing.T) (all, agents []string) {
	type annotated struct {
		Metadata struct {
			Name                string
			Labels, Annotations map[string]string
		}
		Status struct{ PodIP string }
	}
	const prefix = "prometheus.io/"
	for _, p := range list[annotated](t, "v1", "Pod", system, "") {
		a := p.Metadata.Annotations
		if a[prefix+"scrape"] != "true" || p.Status.PodIP == "" {
			continue
		}
		if a[prefix+"path"] != "/metrics" {
			t.Errorf("pod %s is to be scraped at %q", p.Metadata.Name, a[prefix+"path"])
		}
		at := net.JoinHostPort(p.Status.PodIP, a[prefix+"port"])
		all = append(all, at)
		if p.Metadata.Labels["app.kubernetes.io/component"] == "agent" {
			agents = append(agents, at)
		}
	}
	return all, agents
}

// prometheus is a server on node n1 that scrapes the cluster.
type prometheus struct{ base string }

func startPrometheus(t *testing.T) *prometheus {
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	all, agents := scraped(t)
	if len(agents) != len(mesh.Nodes()) || len(all) <= len(agents) {
		t.Fatalf("pods to scrape: %v, agents among them: %v", all, agents)
	}
	text := fmt.Sprintf(scraping, filepath.Join(mesh.root, "install/chart/rules/weft.yaml"), strings.Join(all, ", "), strings.Join(agents, ", "))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatal(err)
	}
	cmd, err := mesh.NodeCommand(context.Background(), "n1", path, "--config.file="+config, "--storage.tsdb.path="+dir+"/data",
		"--web.listen-address=:19090", "--log.level=warn")
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if _ = cmd.Wait(); t.Failed() {
			t.Log(log.String())
		}
	})
	var node struct {
		Status struct {
			Addresses []struct{ Type, Address string }
		}
	}
	if err := read(t, "v1", "Node", "", "n1", &node); err != nil {
		t.Fatal(err)
	}
	p := &prometheus{"http://" + node.Status.Addresses[0].Address + ":19090/api/v1/"}
	eventually(t, settle, func() error {
		_, err := p.query(t.Context(), "vector(1)")
		return err
	})
	return p
}

// get asks the API and returns what is in data.
func (p *prometheus) get(ctx context.Context, path string, query url.Values, data any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", r.Status, err)
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", r.Status, answer.Error)
	}
	return nil
}

type sample struct {
	Metric map[string]string
	Value  [2]any // time, and the value as a string
}

// query returns what an expression gives now.
func (p *prometheus) query(ctx context.Context, expression string) ([]sample, error) {
	var data struct{ Result []sample }
	err := p.get(ctx, "query", url.Values{"query": {expression}}, &data)
	return data.Result, err
}

// labels returns the values of a label of the series that match.
func (p *prometheus) labels(ctx context.Context, match, label string) ([]string, error) {
	var values []string
	err := p.get(ctx, "label/"+label+"/values", url.Values{"match[]": {match}}, &values)
	return values, err
}

// alert is an alert rule, and how its last evaluation went.
type alert struct{ Name, Query, Health, LastError, State string }

func (p *prometheus) alerts(ctx context.Context) ([]alert, error) {
	var data struct{ Groups []struct{ Rules []alert } }
	if err := p.get(ctx, "rules", nil, &data); err != nil {
		return nil, err
	}
	var out []alert
	for _, g := range data.Groups {
		out = append(out, g.Rules...)
	}
	return out, nil
}

// someNumber reports whether a sample is a number: a division by zero gives none.
func someNumber(all []sample) bool {
	for _, s := range all {
		if s.Value[1] != "NaN" {
			return true
		}
	}
	return false
}

// pageTimeout is how long queries may take to have data: two scrapes after the traffic that they tell of.
const pageTimeout = time.Minute
