package traffic

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/testenv"
)

var update = flag.Bool("update", false, "write the table of docs/metrics.md anew")

// TestReference: docs/metrics.md lists what the package exports.
func TestReference(t *testing.T) {
	var rows []string
	for _, m := range Metrics() {
		var more []string
		for _, l := range m.Labels[len(labelNames):] {
			more = append(more, "`"+l+"`")
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |", m.Name, m.Type, m.Help, strings.Join(more, ", ")))
	}
	testenv.Reference(t, "../../docs/metrics.md", "| metric | type | counts | labels besides the common ones |", rows, *update)
}
