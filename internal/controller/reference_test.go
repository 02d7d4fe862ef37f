package controller

import (
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weft-mesh/weft/internal/ca"
	"github.com/weft-mesh/weft/internal/hubble/relay"
	"github.com/weft-mesh/weft/internal/testenv"
)

// TestMetricsReference: docs/metrics.md lists what controllers export.
func TestMetricsReference(t *testing.T) {
	var rows []string
	for _, c := range slices.Concat([]prometheus.Collector{leading}, ca.Metrics(), relay.Metrics()) {
		descs := make(chan *prometheus.Desc, 1)
		c.Describe(descs)
		rows = append(rows, testenv.MetricRow(t, <-descs))
	}
	testenv.Reference(t, "../../docs/metrics.md", "| metric of a controller | type | is | labels |", rows, *update)
}
