package traffic

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of docs/metrics.md anew")

// TestReference: docs/metrics.md lists what the package exports.
func TestReference(t *testing.T) {
	const file, first = "../../docs/metrics.md", "| metric | type | counts | labels besides the common ones |\n"
	var table strings.Builder
	table.WriteString(first + "|---|---|---|---|\n")
	for _, m := range Metrics() {
		var more []string
		for _, l := range m.Labels[len(labelNames):] {
			more = append(more, "`"+l+"`")
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, m.Help, strings.Join(more, ", "))
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), first)
	_, after, ended := strings.Cut(rest, "\n\n")
	if !found || !ended {
		t.Fatalf("%s has no table that begins with %q and ends with an empty line", file, first)
	}
	want := before + table.String() + "\n" + after
	if want == string(text) {
		return
	}
	if !*update {
		t.Fatalf("%s is not up to date: go test ./internal/traffic -run TestReference -update", file)
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
