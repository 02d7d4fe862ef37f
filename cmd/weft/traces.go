package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/xds"
)

// traceFlags are the flags about spans.
type traceFlags struct {
	collector string
	sampling  float64
}

func (t *traceFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&t.collector, "trace-collector", "", "Service of an OpenTelemetry collector that takes OTLP by gRPC in the clear: NAMESPACE/NAME:PORT; without it there are no traces")
	f.Float64Var(&t.sampling, "trace-sampling", xds.DefaultSampling, "percentage of requests that begin a trace; the label weft.io/trace-sampling of a Namespace wins")
}

// traces returns what the flags ask for; nil for nothing.
func (t *traceFlags) traces() (*xds.Traces, error) {
	if !(t.sampling >= 0 && t.sampling <= 100) {
		return nil, fmt.Errorf("--trace-sampling %v is no percentage from 0 to 100", t.sampling)
	}
	if t.collector == "" {
		return nil, nil
	}
	ns, name, n, err := servicePort(t.collector)
	if err != nil {
		return nil, fmt.Errorf("--trace-collector %w", err)
	}
	return &xds.Traces{Namespace: ns, Service: name, Port: n, Sampling: t.sampling}, nil
}

// servicePort reads NAMESPACE/NAME:PORT.
func servicePort(s string) (namespace, name string, port uint16, err error) {
	service, text, _ := strings.Cut(s, ":")
	namespace, name = model.SplitKey(service)
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", 0, fmt.Errorf("%q is not of the form NAMESPACE/NAME:PORT", s)
	}
	return namespace, name, uint16(n), nil
}
