package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/weft-mesh/weft/internal/flowexport"
	"github.com/weft-mesh/weft/internal/observe"
)

func TestExportFlags(t *testing.T) {
	parse := func(args ...string) (exportFlags, error) {
		var e exportFlags
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		e.flags(f)
		return e, f.Parse(args)
	}
	e, err := parse("--flow-export-file=/d/f", "--flow-export-file-size=65536", "--flow-export-files=2", "--flow-export-otlp=o/c:4317",
		"--flow-export-filter=verdict=refused,failed", "--flow-export-filter=namespace=shop,!test")
	if err != nil {
		t.Fatal(err)
	}
	x, err := e.export()
	if err != nil {
		t.Fatal(err)
	}
	if x.Stdout || x.File.Path != "/d/f" || x.File.Size != 65536 || x.File.Count != 2 || x.Collector.String() != "o/c:4317" {
		t.Errorf("%+v", x)
	}
	if x.Collector.TLS != nil {
		t.Errorf("TLS: %+v", x.Collector.TLS)
	}
	e, err = parse("--flow-export-otlp=o/c:4317", "--flow-export-otlp-ca=/ca", "--flow-export-otlp-server-name=otel", "--flow-export-otlp-cert=/cert", "--flow-export-otlp-key=/key")
	if err != nil {
		t.Fatal(err)
	}
	if y, err := e.export(); err != nil || *y.Collector.TLS != (flowexport.TLS{CA: "/ca", ServerName: "otel", Cert: "/cert", Key: "/key"}) {
		t.Errorf("%+v, error %v", y, err)
	}
	for flow, want := range map[*observe.Flow]bool{
		{Verdict: observe.Refused, Source: observe.Peer{Workload: "shop/a"}}:                                               true,
		{Verdict: observe.Forwarded, Source: observe.Peer{Workload: "shop/a"}}:                                             false,
		{Verdict: observe.Failed, Source: observe.Peer{Workload: "shop/a"}, Destination: observe.Peer{Workload: "test/a"}}: false,
	} {
		if x.Filter.Match(flow) != want {
			t.Errorf("%+v: want %v", flow, want)
		}
	}
	for arg, says := range map[string]string{
		"--flow-export-filter=colour=red":     "with a field of from, ",
		"--flow-export-filter=verdict":        "FIELD=VALUE",
		"--flow-export-filter=verdict=lost":   `"lost" is neither`,
		"--flow-export-filter=namespace=a,":   "a value is empty",
		"--flow-export-filter=since=10m":      "with a field of",
		"--flow-export-file-size=1":           "the least is",
		"--flow-export-files=0":               "1 to 1000",
		"--flow-export-otlp=collector:4317":   "NAMESPACE/NAME:PORT",
		"--flow-export-otlp=o/collector:0":    "--flow-export-otlp",
		"--flow-export-otlp=http://c.o:4317":  "NAMESPACE/NAME:PORT",
		"--flow-export-otlp-ca=/ca":           "needs --flow-export-otlp",
		"--flow-export-otlp-server-name=otel": "needs the file of the collector's CA",
		"--flow-export-otlp-cert=/cert":       "needs the file of the collector's CA",
	} {
		e, err := parse(arg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.export(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

// TestChartKnowsFilters: the chart takes each field that the flag takes, and no other.
func TestChartKnowsFilters(t *testing.T) {
	text, err := os.ReadFile("../../install/chart/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`"\^\(([a-z|]*verdict[a-z|]*)\)\$"`).FindSubmatch(text)
	if m == nil {
		t.Fatal("the schema has no pattern of the fields")
	}
	got := strings.Split(string(m[1]), "|")
	slices.Sort(got)
	var terms observe.Terms
	if want := slices.Sorted(maps.Keys(terms.Fields())); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
