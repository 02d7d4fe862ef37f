//go:build cluster

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/test/e2e/workload"
)

// dashboard is what Grafana asks Prometheus for.
type dashboard struct {
	Title  string
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
	Templating struct {
		List []struct {
			Name, Type string
			Query      any
		}
	}
}

func dashboards(t *testing.T) map[string]dashboard {
	files, err := filepath.Glob(filepath.Join(mesh.root, "install/chart/dashboards/*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	out := map[string]dashboard{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		out[filepath.Base(f)] = d
	}
	return out
}

// TestDashboards asks a Prometheus that scrapes the cluster for all that the dashboards show and the alerts watch, while
// there is traffic of each kind.
func TestDashboards(t *testing.T) {
	flows := background(t)
	p := startPrometheus(t)
	// A strict pod refuses who has no identity.
	stranger := workload.Spec{URL: "http://" + podsOf(t, strict, "deployment=web")[0].Status.PodIP + ":8080/", Workers: 1, Rate: 5, NewConnections: true}
	refused := flow{name: "refused", namespace: plain, client: "client", spec: stranger}
	traffic := begin(t, flows...)
	refusals := begin(t, refused)
	names := askNames(t)
	for file, d := range dashboards(t) {
		t.Run(file, func(t *testing.T) { hasData(t, p, d) })
	}
	t.Run("alerts", func(t *testing.T) { watch(t, p) })
	t.Run("judging a canary", func(t *testing.T) { judge(t, p) })
	names()
	_, _ = refusals.stop() // all of them fail
	traffic.end()
}

// askNames has a pod ask its name server, one question after the other, until the function that it returns is called.
func askNames(t *testing.T) (stop func()) {
	end, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for asked := 0; ; {
			_, err := in(t, plain, "client", nil, "resolve", "udp", "web."+plain+".svc.cluster.local")
			if err == nil {
				asked++
			}
			select {
			case <-end:
				if asked > 0 {
					err = nil
				}
				ended <- err
				return
			default:
			}
		}
	}()
	return func() {
		close(end)
		if err := <-ended; err != nil {
			t.Errorf("no name was resolved: %v", err)
		}
	}
}

// labelValues is Grafana's query of a variable.
var labelValues = regexp.MustCompile(`^label_values\((.*), *(\w+)\)$`)

// hasData asks for each variable's values, puts one in, and asks what each panel asks.
func hasData(t *testing.T, p *prometheus, d dashboard) {
	chosen := map[string]string{"$__rate_interval": "20s"}
	replace := func(s string) string {
		for name, value := range chosen {
			s = strings.ReplaceAll(s, name, value)
		}
		return s
	}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		query, _ := v.Query.(string)
		parts := labelValues.FindStringSubmatch(query)
		if parts == nil {
			t.Fatalf("variable %s: %q is not label_values(series, label)", v.Name, query)
		}
		eventually(t, pageTimeout, func() error {
			values, err := p.labels(t.Context(), replace(parts[1]), parts[2])
			if err == nil && len(values) == 0 {
				err = fmt.Errorf("variable %s has no values by %s", v.Name, replace(query))
			}
			return err
		})
		chosen["$"+v.Name] = ".*"
	}
	if len(d.Panels) == 0 {
		t.Fatal("no panels")
	}
	asked := 0
	eventually(t, pageTimeout, func() error {
		var missing []error
		asked = 0
		for _, panel := range d.Panels {
			for _, target := range panel.Targets {
				asked++
				expr := replace(target.Expr)
				samples, err := p.query(t.Context(), expr)
				if err == nil && !someNumber(samples) {
					err = errors.New("no data")
				}
				if err != nil {
					missing = append(missing, fmt.Errorf("panel %q: %s: %w", panel.Title, expr, err))
				}
			}
		}
		return errors.Join(missing...)
	})
	measured(t, "queries with data", asked)
}

// metricName is that of a series of ours.
var metricName = regexp.MustCompile(`\b(weft_\w+|leader_election_\w+)`)

// watch sees that each alert is evaluated without an error, that each series that it watches is there, and that a well
// cluster does not ring.
func watch(t *testing.T, p *prometheus) {
	var all []alert
	eventually(t, 2*pageTimeout, func() (err error) {
		if all, err = p.alerts(t.Context()); err != nil {
			return err
		}
		for _, a := range all {
			if a.Health != "ok" {
				return fmt.Errorf("alert %s is %s: %s", a.Name, a.Health, a.LastError)
			}
		}
		return nil
	})
	if len(all) == 0 {
		t.Fatal("no alerts")
	}
	series := 0
	for _, a := range all {
		if a.State == "firing" {
			t.Errorf("alert %s fires", a.Name)
		}
		for _, name := range metricName.FindAllString(a.Query, -1) {
			series++
			samples, err := p.query(t.Context(), "count("+name+")")
			if err != nil || len(samples) == 0 {
				t.Errorf("alert %s watches %s, of which there are no series (%v)", a.Name, name, err)
			}
		}
	}
	measured(t, "alerts", len(all))
	measured(t, "series that they watch", series)
}

// judge asks what tools ask that move the weights of a canary: by Istio's names, as Flagger's checks do, and by ours.
func judge(t *testing.T, p *prometheus) {
	istio := `{reporter="destination", destination_workload_namespace="` + plain + `", destination_workload=~"web"`
	ours := `{reporter=~"source|gateway", destination_namespace="` + plain + `", destination_workload="web"`
	for name, expr := range map[string]string{ // each is 1, or nearly where the two names are read one after the other
		"success by Istio's names": `sum(rate(istio_requests_total` + istio + `, response_code!~"5.*"}[20s])) / sum(rate(istio_requests_total` + istio + `}[20s]))`,
		"success by Weft's names":  `1 - (sum(rate(weft_requests_total` + ours + `, response_class="5xx"}[20s])) or vector(0)) / sum(rate(weft_requests_total` + ours + `}[20s]))`,
		"requests by both names":   `sum(last_over_time(istio_requests_total` + istio + `}[10s])) / sum(last_over_time(weft_requests_total` + ours + `}[10s]))`,
	} {
		samples, err := p.query(t.Context(), expr)
		if err != nil || len(samples) != 1 {
			t.Errorf("%s: %v (%v) by %s", name, samples, err, expr)
			continue
		}
		if v, err := strconv.ParseFloat(fmt.Sprint(samples[0].Value[1]), 64); err != nil || v < 0.99 || v > 1.01 {
			t.Errorf("%s: %v, want 1, by %s", name, samples[0].Value[1], expr)
		}
	}
	const p99 = `histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="destination", destination_workload_namespace="` + plain + `"}[20s])))`
	if samples, err := p.query(t.Context(), p99); err != nil || !someNumber(samples) {
		t.Errorf("p99: %v (%v)", samples, err)
	}
}
