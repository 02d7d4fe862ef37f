package envoyconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestParse reads parts of what the Envoy of a demo's node dumped. The rest of the rows is in the golden files of package cli.
func TestParse(t *testing.T) {
	c, err := Parse(read(t, "dump.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Listeners) != 4 || len(c.Clusters) != 4 || len(c.Routes) != 4 || len(c.Secrets) != 3 {
		t.Errorf("%d listeners, %d clusters, %d routes, %d secrets", len(c.Listeners), len(c.Clusters), len(c.Routes), len(c.Secrets))
	}
	for _, r := range c.Routes {
		if !strings.Contains(string(r.Raw), `"match"`) {
			t.Errorf("route %s is not as Envoy dumped it: %s", r.Name, r.Raw)
		}
	}
	for _, s := range c.Secrets {
		if s.NotAfter.IsZero() || s.Updated.IsZero() {
			t.Errorf("secret %s ends at %v, came at %v", s.Name, s.NotAfter, s.Updated)
		}
	}
}

// TestHeaderSecret: the value of a header is named as one.
func TestHeaderSecret(t *testing.T) {
	c, err := Parse([]byte(`{"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump", "dynamic_active_secrets": [
 {"name": "header|shop/gw/authorization", "secret": {"name": "header|shop/gw/authorization", "generic_secret": {"secret": {"inline_string": "[redacted]"}}}}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Secrets) != 1 || c.Secrets[0].Kind != "header" {
		t.Errorf("%+v", c.Secrets)
	}
}

// TestWords: matches and targets that the dump does not have.
func TestWords(t *testing.T) {
	for text, want := range map[string]string{
		`{"match":{"path":"/a","headers":[{"name":"x","string_match":{"exact":"1"},"invert_match":true},{"name":"y"}]},"redirect":{}}`:                                     "/a x!=1 y=*; redirect",
		`{"match":{"path_separated_prefix":"/a","query_parameters":[{"name":"q","string_match":{"prefix":"v"}}]},"direct_response":{"status":503}}`:                        "/a/* ?q=v*; answer 503",
		`{"match":{"safe_regex":{"regex":"/[ab]"}},"route":{"cluster_header":"to"}}`:                                                                                       "~/[ab]; the cluster that header to names",
		`{"match":{"prefix":"/"},"route":{"weighted_clusters":{"clusters":[{"name":"a","weight":9},{"name":"b"}]}}}`:                                                       "/*; a 9, b 0",
		`{"match":{"connect_matcher":{},"headers":[{"name":":authority","string_match":{"safe_regex":{"regex":".*"}}}]},"route":{"cluster":"c"},"name":"not the table's"}`: "CONNECT :authority=~.*; c",
		`{}`: "; ",
	} {
		dump := `{"configs":[{"dynamic_route_configs":[{"route_config":{"name":"t","virtual_hosts":[{"name":"v","routes":[` + text + `]}]}}]}]}`
		c, err := Parse([]byte(dump))
		if err != nil || len(c.Routes) != 1 {
			t.Errorf("%s: %v, %+v", text, err, c)
			continue
		}
		if got := c.Routes[0].Match + "; " + c.Routes[0].Target; got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestParseClusters(t *testing.T) {
	all, err := ParseClusters(read(t, "clusters.json"))
	if err != nil || len(all) != 3 {
		t.Fatalf("%v, %+v", err, all)
	}
	e := all[0]
	if e.Cluster != "service/canary/web-v1/80|plain" || e.Address != "10.77.0.3:8080" || e.Health != "HEALTHY" || e.Weight != 1 || e.Requests == 0 {
		t.Errorf("%+v", e)
	}
	down := `{"cluster_statuses":[{"name":"c","host_statuses":[{"address":{"envoy_internal_address":{"server_listener_name":"l","endpoint_id":"e"}},
		"health_status":{"failed_outlier_check":true,"eds_health_status":"DRAINING"},"stats":[{"name":"rq_error","value":"x"}]}]}]}`
	if _, err := ParseClusters([]byte(down)); err == nil || !strings.Contains(err.Error(), "rq_error") {
		t.Errorf("a count that is no number: %v", err)
	}
	all, err = ParseClusters([]byte(strings.Replace(down, `"x"`, `"7"`, 1)))
	if err != nil || all[0].Errors != 7 || all[0].Health != "DRAINING,failed_outlier_check" || all[0].Address != "l for e" {
		t.Errorf("%v, %+v", err, all)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(read(f, "dump.json"))
	f.Add(read(f, "clusters.json"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		_, _ = Parse(text)
		_, _ = ParseClusters(text)
	})
}
