package metrics

import (
	"flag"
	"testing"

	"github.com/weft-mesh/weft/internal/testenv"
)

var update = flag.Bool("update", false, "write the table of docs/metrics.md anew")

// TestReference: docs/metrics.md lists what says how a node does.
func TestReference(t *testing.T) {
	var rows []string
	for _, d := range all {
		rows = append(rows, testenv.MetricRow(t, d))
	}
	testenv.Reference(t, "../../docs/metrics.md", "| metric of an agent | type | is | labels |", rows, *update)
}
