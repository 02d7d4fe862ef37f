package cli

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/explain"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/servicemap"
)

// flowLine is a line of weft observe -o json.
type flowLine struct {
	Node string `json:"node"`
	observe.Event
}

// TestOneForm holds each command's JSON to one form: a program that reads it need not know whether a node's agent or a cluster was
// asked. A cluster of one node answers as that node does, byte for byte, except for the API server's name.
func TestOneForm(t *testing.T) {
	socket, counting := serve(t, sickNode()), talking(t)
	one := meshOf(t, map[string]string{"worker-1": socket})
	two := meshOf(t, map[string]string{"worker-1": socket, "worker-2": serve(t, healthyNode())})
	countingOne := meshOf(t, map[string]string{"worker-1": counting})
	for args, into := range map[string]any{
		"status":                     meshStatus{},
		"config services":            []listing[model.Service]{},
		"config endpoints":           []listing[model.Endpoints]{},
		"config routes":              []listing[model.RouteTable]{},
		"config identities":          []listing[api.Identity]{},
		"config certificates":        []listing[api.Certificate]{},
		"config policies":            []listing[api.WorkloadPolicy]{},
		"config gateways":            []listing[model.Gateway]{},
		"config status":              []listing[model.Status]{},
		"config services -n nowhere": []listing[model.Service]{},
		"observe":                    flowLine{},
		"observe --last 1":           flowLine{},
		"explain --from shop/app-1 --to shop/web": explain.Answer{},
		"describe pod shop/web-1":                 described{},
		"describe service shop/web":               described{},
		"describe gateway edge/public":            described{},
		"describe route shop/canary":              described{},
		"top --for 1ms":                           []servicemap.Load{},
		"edges --for 1ms":                         servicemap.Graph{},
	} {
		t.Run(args, func(t *testing.T) {
			local, cluster, both := socket, one, two
			if _, rest, ok := strings.Cut(args, " --for"); ok && rest != "" {
				local, cluster, both = counting, countingOne, countingOne
			}
			ask := func(more ...string) string {
				t.Helper()
				out, err := run(t, append(append(strings.Fields(args), "-o", "json"), more...)...)
				if err != nil && !errors.Is(err, ErrUnhealthy) {
					t.Fatal(err)
				}
				out, _, _ = strings.Cut(out, "No traffic.") // standard error
				return out
			}
			node := ask("--run", local)
			for who, got := range map[string]string{"a node": node, "a cluster": ask("--kubeconfig", both), "a node of a cluster": ask("--kubeconfig", both, "--node", "worker-1")} {
				strictly(t, who, got, into)
			}
			if got := hideTime(ask("--kubeconfig", cluster)); got != hideTime(node) {
				t.Errorf("the same node, asked as a cluster (-):\n%s", cmp.Diff(got, hideTime(node)))
			}
		})
	}
}

// strictly decodes each value of a text into a type that must have all of its fields, and looks for the names of nodes.
func strictly(t *testing.T, who, text string, into any) {
	t.Helper()
	d := strictDecoder(text)
	values := 0
	for ; d.More(); values++ {
		v := reflect.New(reflect.TypeOf(into))
		if err := d.Decode(v.Interface()); err != nil {
			t.Fatalf("%s: %v: %s", who, err, text)
		}
		switch v := v.Interface().(type) {
		case *meshStatus:
			if len(v.Nodes) == 0 || v.Nodes[0].Name != "worker-1" || v.Nodes[0].Status == nil || v.Nodes[0].Status.Agent.PID != 100 {
				t.Errorf("%s: not the nodes: %s", who, text)
			}
		case *flowLine:
			if v.Node == "" {
				t.Errorf("%s: a flow without its node: %s", who, text)
			}
		case *described:
			if v.Node == "" {
				t.Errorf("%s: a description without its node: %s", who, text)
			}
		}
	}
	if values == 0 {
		t.Errorf("%s: nothing is printed", who)
	}
}

func strictDecoder(text string) *json.Decoder {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	return d
}

// decode decodes one value into a type that must have all of its fields.
func decode(text string, into any) error { return strictDecoder(text).Decode(into) }

// hideTime takes out what differs from one asking to the next: the API server that a test starts, and the time of a graph.
func hideTime(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, `  "host": `) && !strings.HasPrefix(line, `  "time": `) && !strings.HasPrefix(line, `  "window": `) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}
