package testenv

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Reference compares a table of a page in docs with what the code says. head is the table's first line; the table ends with an empty
// line. If it differs the test fails, or with update the page is written anew.
func Reference(t *testing.T, file, head string, rows []string, update bool) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head += "\n"
	before, rest, found := strings.Cut(string(text), head)
	_, after, ended := strings.Cut(rest, "\n\n")
	if !found || !ended {
		t.Fatalf("%s has no table that begins with %q and ends with an empty line", file, head)
	}
	line := strings.Repeat("|---", strings.Count(head, "|")-1) + "|\n"
	want := before + head + line + strings.Join(rows, "\n") + "\n\n" + after
	if want == string(text) {
		return
	}
	if !update {
		t.Fatalf("%s is not up to date: go test . -run %s -update", file, t.Name())
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// described finds a metric's name, help and labels in what Prometheus' client prints of it.
var described = regexp.MustCompile(`^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*"),.* constLabels: \{\}, variableLabels: \{(.*)\}\}$`)

// MetricRow returns the line of a table for a metric: name, type, help and labels. By the naming rules of Prometheus a counter's name
// ends with _total.
func MetricRow(t *testing.T, d *prometheus.Desc) string {
	t.Helper()
	m := described.FindStringSubmatch(d.String())
	if m == nil {
		t.Fatalf("cannot be read: %s", d)
	}
	name, _ := strconv.Unquote(m[1]) // it is quoted
	help, _ := strconv.Unquote(m[2])
	kind := "gauge"
	if strings.HasSuffix(name, "_total") {
		kind = "counter"
	}
	var labels []string
	for l := range strings.SplitSeq(m[3], ",") {
		if l != "" {
			labels = append(labels, "`"+l+"`")
		}
	}
	return "| `" + name + "` | " + kind + " | " + help + " | " + strings.Join(labels, ", ") + " |"
}
