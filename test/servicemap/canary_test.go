package servicemap

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/servicemap"
	"github.com/weft-mesh/weft/internal/testenv"
)

// TestCanaryEdges: weft edges shows a canary's split as the README says, while the example's client calls.
func TestCanaryEdges(t *testing.T) {
	testenv.Root(t)
	n := start(t)
	at := netip.AddrPortFrom(n.ServiceIP("canary", "web"), 80)
	calls, err := load.Start(t.Context(), load.Config{URL: "http://" + at.String(), Host: "web", Dial: n.Pod("canary", "client").Dial, Rate: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { calls.Stop() })
	var problem string
	for end := time.Now().Add(time.Minute); ; {
		if problem = split(t, n.RunDir); problem == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatal(problem)
		}
	}
}

// split says what keeps weft edges from showing a tenth of the requests at version 2.
func split(t *testing.T, run string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), testenv.Weft(t), "edges", "--run", run, "-o", "json").Output()
	var g servicemap.Graph
	if err == nil {
		err = json.Unmarshal(out, &g)
	}
	if err != nil {
		t.Fatal(err)
	}
	rates := map[string]float64{}
	for _, e := range g.Edges {
		if e.From == "canary/Pod/client" {
			rates[e.To] = e.Requests
		}
	}
	v1, v2 := rates["canary/Pod/web-v1"], rates["canary/Pod/web-v2"]
	const seconds = 5 // that weft edges measures at least
	if all := v1 + v2; all == 0 || !load.Within(int(v2*seconds), int(all*seconds), 0.1, 4) {
		return fmt.Sprintf("%.1f requests a second to v1 and %.1f to v2: %s", v1, v2, out)
	}
	return ""
}
