package cli

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/observe"
)

// TestDescribeAsksNodes: a pod's own node describes it, and of a Service each node says what is wrong there.
func TestDescribeAsksNodes(t *testing.T) {
	client, server := twoNodes(t)
	sick := serve(t, sickNode())
	for name, c := range map[string]struct {
		args  string
		nodes map[string]string
	}{
		"describe-pod-node":      {"describe pod pair/server", map[string]string{"worker-1": client, "worker-2": server}},
		"describe-pod-node-gone": {"describe pod pair/server", map[string]string{"worker-1": client, "worker-2": "/nowhere"}},
		"describe-service-nodes": {"describe service shop/web", map[string]string{"worker-1": client, "worker-2": sick, "worker-3": "/nowhere"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := run(t, append(strings.Fields(c.args), "--kubeconfig", meshOf(t, c.nodes))...)
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			golden(t, filepath.Join("testdata", name+".txt"), "$ weft "+c.args+"\n"+hideHost(out))
		})
	}
}

func TestDescribeRefusesBadQuestions(t *testing.T) {
	node := serve(t, healthyNode())
	for args, want := range map[string]string{
		"node shop/web":          "cannot be described",
		"pod web-1":              "NAMESPACE/NAME",
		"pod shop/web/1":         "NAMESPACE/NAME",
		"pod shop/web-1 -n bank": "another namespace",
		"pod shop/gone":          "Pod shop/gone is not known to the node: it does not exist",
		"route shop/gone":        "Route shop/gone is not known",
		"pod":                    "name one object",
		"pod shop/web-1 -o wide": "-o wide",
	} {
		if out, err := run(t, append(strings.Fields("describe "+args), "--run", node)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one about %s: %s", args, err, want, out)
		}
	}
}

// TestLastRefusals: a description has the last refusals, each once, though both ends report it and flows from the flows API have no
// numbers.
func TestLastRefusals(t *testing.T) {
	d := &described{}
	for port := range uint16(2 * lastRefusals) {
		for node, at := range map[string]observe.Side{"n1": observe.AtSource, "n2": observe.AtDestination} {
			e := report(at, 1+port, time.Duration(port)*time.Second)
			e.Flow.Verdict = observe.Refused
			copied := *e.Flow
			for _, f := range []*observe.Flow{e.Flow, &copied} { // it is from the pod and to it
				if err := d.take(node)(observe.Event{Flow: f}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := d.lastOnly(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range d.Refusals {
		got = append(got, fmt.Sprint(r.Node, " ", r.Flow.Source.Address.Port(), " ", r.Flow.SeenAt))
	}
	want := []string{"n1 6 both ends", "n1 7 both ends", "n1 8 both ends", "n1 9 both ends", "n1 10 both ends"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
