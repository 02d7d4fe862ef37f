package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/weft-mesh/weft/internal/agent"
	"github.com/weft-mesh/weft/internal/flowexport"
	"github.com/weft-mesh/weft/internal/observe"
)

// Bounds of an export's files.
const (
	minExportSize  = 64 << 10
	maxExportFiles = 1000
)

// exportFlags are the flags about flows that are sent elsewhere.
type exportFlags struct {
	stdout    bool
	file      string
	size      int64
	files     int
	collector string
	filters   []string
}

func (e *exportFlags) flags(f *pflag.FlagSet) {
	f.BoolVar(&e.stdout, "flow-export-stdout", false, "flows as lines of JSON to standard output")
	f.StringVar(&e.file, "flow-export-file", "", "flows as lines of JSON to this file, which is rotated: FILE, FILE.1, ...")
	f.Int64Var(&e.size, "flow-export-file-size", 100<<20, "bytes of a file of --flow-export-file, after which another is begun")
	f.IntVar(&e.files, "flow-export-files", 5, "how many files of --flow-export-file there are at most")
	f.StringVar(&e.collector, "flow-export-otlp", "", "Service of an OpenTelemetry collector that takes flows as OTLP logs by gRPC in the clear: NAMESPACE/NAME:PORT")
	f.StringArrayVar(&e.filters, "flow-export-filter", nil, "only such flows, FIELD=VALUE[,VALUE...] with the fields and values of weft observe's flags, as verdict=refused,failed; all that are given must fit")
}

// export returns what the flags ask for.
func (e *exportFlags) export() (out agent.Export, err error) {
	var terms observe.Terms
	fields := terms.Fields()
	for _, text := range e.filters {
		name, values, ok := strings.Cut(text, "=")
		if !ok || fields[name] == nil {
			return out, fmt.Errorf("--flow-export-filter %q is not of the form FIELD=VALUE[,VALUE...] with a field of %s", text, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		}
		*fields[name] = append(*fields[name], strings.Split(values, ",")...)
	}
	if out.Filter, err = terms.Filter(); err != nil {
		return out, fmt.Errorf("--flow-export-filter: %w", err)
	}
	if e.size < minExportSize {
		return out, fmt.Errorf("--flow-export-file-size %d: the least is %d bytes", e.size, minExportSize)
	}
	if e.files < 1 || e.files > maxExportFiles {
		return out, fmt.Errorf("--flow-export-files %d: there may be 1 to %d", e.files, maxExportFiles)
	}
	out.Stdout, out.File = e.stdout, flowexport.File{Path: e.file, Size: e.size, Count: e.files}
	if e.collector == "" {
		return out, nil
	}
	ns, name, port, err := servicePort(e.collector)
	if err != nil {
		return out, fmt.Errorf("--flow-export-otlp %w", err)
	}
	out.Collector = &flowexport.Collector{Namespace: ns, Service: name, Port: port}
	return out, nil
}
