package traffic

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weft-mesh/weft/internal/state"
)

// TestCopies: copies are counted by the Service that they are for, and by what became of them.
func TestCopies(t *testing.T) {
	r, envoy := newRequests(state.New(state.NewDB()))
	const to = "service/shop/copies/80"
	envoy.stats.Counters["weft.copies.|cluster."+to+".|asked.-.|code.500.|flags.-"] = 3
	envoy.stats.Counters["weft.copies.|cluster."+to+".|asked.-.|code.504.|flags.UT"] = 2
	envoy.stats.Counters["weft.copies.|cluster.-.|asked."+to+".|code.413.|flags.-"] = 4
	// A backend may answer 413 itself.
	envoy.stats.Counters["weft.copies.|cluster."+to+".|asked.-.|code.413.|flags.-"] = 1
	const labels = `destination_identity="",destination_kind="unknown",destination_namespace="unknown",destination_service="copies",destination_service_namespace="shop",destination_workload="unknown",mtls="false",reporter="mirror",`
	const source = `,source_identity="",source_kind="unknown",source_namespace="unknown",source_workload="unknown"`
	want := "# HELP weft_mirrored_requests_total " + copiesTotal.Help + "\n# TYPE weft_mirrored_requests_total counter\n"
	for _, l := range []string{`result="answered"` + source + "} 4", `result="failed"` + source + "} 2", `result="too_large"` + source + "} 4"} {
		want += "weft_mirrored_requests_total{" + labels + l + "\n"
	}
	if err := testutil.CollectAndCompare(r, strings.NewReader(want), copiesTotal.Name); err != nil {
		t.Error(err)
	}
}
