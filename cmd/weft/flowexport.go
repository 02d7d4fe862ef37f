package main

import (
	"errors"
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
	tls       flowexport.TLS
	filters   []string
}

func (e *exportFlags) flags(f *pflag.FlagSet) {
	f.BoolVar(&e.stdout, "flow-export-stdout", false, "flows as lines of JSON to standard output")
	f.StringVar(&e.file, "flow-export-file", "", "flows as lines of JSON to this file, which is rotated: FILE, FILE.1, ...")
	f.Int64Var(&e.size, "flow-export-file-size", 100<<20, "bytes of a file of --flow-export-file, after which another is begun")
	f.IntVar(&e.files, "flow-export-files", 5, "how many files of --flow-export-file there are at most")
	f.StringVar(&e.collector, "flow-export-otlp", "", "Service of an OpenTelemetry collector that takes flows as OTLP logs by gRPC: NAMESPACE/NAME:PORT; in the clear without --flow-export-otlp-ca")
	f.StringVar(&e.tls.CA, "flow-export-otlp-ca", "", "file with the roots that the collector's certificate must come from, as PEM: flows go by TLS. This file, and those of the client's certificate, are read anew for each connection")
	f.StringVar(&e.tls.ServerName, "flow-export-otlp-server-name", "", "name that the collector's certificate must be for (default NAME.NAMESPACE.svc)")
	f.StringVar(&e.tls.Cert, "flow-export-otlp-cert", "", "file with the agent's certificate for the collector, as PEM")
	f.StringVar(&e.tls.Key, "flow-export-otlp-key", "", "file with the key of --flow-export-otlp-cert")
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
	if err := e.tls.Check(); err != nil {
		return out, fmt.Errorf("--flow-export-otlp-ca, -server-name, -cert, -key: %w", err)
	}
	if e.collector == "" {
		if e.tls.CA != "" {
			return out, errors.New("--flow-export-otlp-ca needs --flow-export-otlp")
		}
		return out, nil
	}
	ns, name, port, err := servicePort(e.collector)
	if err != nil {
		return out, fmt.Errorf("--flow-export-otlp %w", err)
	}
	out.Collector = &flowexport.Collector{Namespace: ns, Service: name, Port: port}
	if e.tls.CA != "" {
		out.Collector.TLS = &e.tls
	}
	return out, nil
}
