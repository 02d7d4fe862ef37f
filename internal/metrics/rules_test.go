package metrics

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/traffic"
)

// TestRulesNameMetrics: an alert on a metric that nobody exports would never fire.
func TestRulesNameMetrics(t *testing.T) {
	names := map[string]bool{}
	for _, m := range traffic.Metrics() {
		names[m.Name] = true
	}
	for _, d := range all {
		m := regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("no name in %s", d)
		}
		names[m[1]] = true
	}
	text, err := os.ReadFile("../../install/chart/rules/weft.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range regexp.MustCompile(`\bweft_\w+`).FindAllString(string(text), -1) {
		found++
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && names[base] {
				name = base
			}
		}
		if !names[name] {
			t.Errorf("no metric is called %s", name)
		}
	}
	if found == 0 {
		t.Error("the rules name no metric")
	}
}
