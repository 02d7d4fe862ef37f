package servicemap

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/traffic"
)

var (
	app   = End{"shop", "Deployment", "app"}
	web   = End{"store", "Deployment", "web"}
	vault = End{"bank", "StatefulSet", "vault"}
	out   = End{}
)

func count(from, to End, reporter string, mtls bool, t traffic.Totals) Count {
	return Count{Pair: Pair{from, to}, Reporter: reporter, MTLS: mtls, Ever: t.Requests+t.Opened > t.RefusedRequests, Totals: t}
}

func part(counts ...Count) *Part { return &Part{Seconds: 10, Counts: counts} }

var now = time.Unix(1e9, 0)

// latency has so many requests in a bucket of model.DurationBuckets.
func latency(counts map[int]uint64) []uint64 {
	out := make([]uint64, len(model.DurationBuckets)+1)
	for i, n := range counts {
		out[i] = n
	}
	return out
}

func TestMerge(t *testing.T) {
	const src, dst = traffic.AtSource, traffic.AtDestination
	for name, tc := range map[string]struct {
		parts []*Part
		want  string
	}{
		"nothing": {nil, ""},
		"requests": {
			[]*Part{part(count(app, web, src, false, traffic.Totals{Requests: 100, Errors: 10, Latency: latency(map[int]uint64{3: 100})}))},
			"shop/app>store/web none 10 req/s, 1 errors/s p50=3.75ms p99=4.975ms",
		},
		"the source's count is taken": {
			[]*Part{
				part(count(app, web, src, true, traffic.Totals{Opened: 50, Sent: 1000})),
				part(count(app, web, dst, true, traffic.Totals{Opened: 49, Sent: 990})),
			}, "shop/app>store/web all 5 conn/s",
		},
		"the destination's where the source has none": {
			[]*Part{part(count(out, web, dst, false, traffic.Totals{Opened: 20}))},
			"outside of the mesh>store/web none 2 conn/s",
		},
		"two pods of one workload on two nodes": {
			[]*Part{
				part(count(app, web, src, true, traffic.Totals{Requests: 100})),
				{Seconds: 20, Counts: []Count{count(app, web, src, true, traffic.Totals{Requests: 100})}},
			}, "shop/app>store/web all 15 req/s",
		},
		"a part in the clear": {
			[]*Part{part(count(app, web, src, true, traffic.Totals{Opened: 10}), count(app, web, src, false, traffic.Totals{Opened: 10}))},
			"shop/app>store/web some 2 conn/s",
		},
		"refused by the destination, failed for the source": {
			[]*Part{
				part(count(out, vault, src, false, traffic.Totals{Failed: 30})),
				part(count(out, vault, dst, false, traffic.Totals{Refused: map[string]uint64{"plaintext to a strict workload": 30}})),
			}, "outside of the mesh>bank/vault none 3 refused/s [plaintext to a strict workload 3]",
		},
		"more failed than were refused": {
			[]*Part{
				part(count(out, vault, src, false, traffic.Totals{Failed: 60})),
				part(count(out, vault, dst, false, traffic.Totals{Refused: map[string]uint64{"x": 30}})),
			}, "outside of the mesh>bank/vault none 3 failed/s, 3 refused/s [x 3]",
		},
		"refused requests over mTLS": {
			[]*Part{part(count(app, vault, dst, true, traffic.Totals{Requests: 20, RefusedRequests: 20}))},
			"shop/app>bank/vault all 2 req/s, 2 refused/s",
		},
		"idle, as it was before": {
			[]*Part{part(Count{Pair: Pair{app, vault}, Reporter: src, MTLS: true, Ever: true}, Count{Pair: Pair{app, vault}, Reporter: src})},
			"shop/app>bank/vault all idle",
		},
		"datagrams are in the clear, beside connections that are not": {
			[]*Part{
				part(count(app, web, src, true, traffic.Totals{Opened: 10, Sent: 100}), count(app, web, src, false, traffic.Totals{UDP: traffic.UDPTotals{Exchanges: 20, Sent: 50}})),
				part(count(app, web, dst, false, traffic.Totals{UDP: traffic.UDPTotals{Exchanges: 21, Sent: 50}})),
			}, "shop/app>store/web some 1 conn/s, 2 UDP/s",
		},
		"questions to DNS, as the server counts them": {
			[]*Part{part(count(out, web, dst, false, traffic.Totals{UDP: traffic.UDPTotals{Questions: 30, Unanswered: 10}}))},
			"outside of the mesh>store/web none 3 DNS/s, 1 unanswered/s",
		},
		"no time has passed": {
			[]*Part{{Counts: []Count{count(app, vault, src, false, traffic.Totals{})}}},
			"shop/app>bank/vault none idle",
		},
	} {
		if got := text(Merge(now, tc.parts, nil)); got != tc.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, tc.want)
		}
	}
}

// text writes the edges of a graph, a line each.
func text(g *Graph) string {
	ends := map[string]End{}
	for _, n := range g.Nodes {
		ends[n.ID] = n.End
	}
	var lines []string
	for i := range g.Edges {
		e := &g.Edges[i]
		line := fmt.Sprint(ends[e.From], ">", ends[e.To], " ", e.MTLS, " ", e.Summary())
		if e.P50 != nil {
			line += fmt.Sprintf(" p50=%.4gms p99=%.4gms", 1e3**e.P50, 1e3**e.P99)
		}
		for reason, rate := range e.Reasons {
			line += fmt.Sprintf(" [%s %s]", reason, Rate(rate))
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func TestQuantile(t *testing.T) {
	for _, tc := range []struct {
		counts map[int]uint64
		share  float64
		want   float64
	}{
		{map[int]uint64{0: 10}, .5, 250e-6}, {map[int]uint64{0: 90, 4: 10}, .99, .0095}, {map[int]uint64{15: 1}, .5, 30},
		{map[int]uint64{1: 1}, 1, .001},
	} {
		var counts []float64
		for _, n := range latency(tc.counts) {
			counts = append(counts, float64(n))
		}
		if got := quantile(tc.share, counts); got == nil || fmt.Sprintf("%.6g", *got) != fmt.Sprintf("%.6g", tc.want) {
			t.Errorf("%v: %v, want %v", tc.counts, got, tc.want)
		}
	}
	if got := quantile(.5, make([]float64, len(model.DurationBuckets)+1)); got != nil {
		t.Errorf("of nothing: %v", *got)
	}
}

// TestBounds: what has the most traffic stays, and the rest is counted.
func TestBounds(t *testing.T) {
	p := part()
	for i := range MaxEdges + 100 {
		p.Counts = append(p.Counts, count(End{"shop", "Pod", fmt.Sprint("p", i%200)}, End{"store", "Pod", fmt.Sprint("p", i/200)}, traffic.AtSource, false, traffic.Totals{Requests: uint64(10 + i)}))
	}
	overflow := Count{Other: true, Totals: traffic.Totals{Requests: 70, Opened: 10, Refused: map[string]uint64{"x": 10}}}
	p.Counts, p.Left = append(p.Counts, overflow), 7
	g := Merge(now, []*Part{p}, nil)
	if len(g.Edges) != MaxEdges || g.Other == nil || g.Other.Edges != 107 || g.Other.Connections != 1 || g.Other.Refused != 1 {
		t.Fatalf("%d edges, other %+v", len(g.Edges), g.Other)
	}
	var shown float64
	for _, e := range g.Edges {
		shown += e.Requests
	}
	var all float64 = 7
	for i := range MaxEdges + 100 {
		all += float64(10+i) / 10
	}
	if d := shown + g.Other.Requests - all; d > 1e-6 || d < -1e-6 {
		t.Errorf("%v shown and %v other, of %v", shown, g.Other.Requests, all)
	}
	p = part()
	for i := range 2 * MaxNodes {
		p.Counts = append(p.Counts, count(End{"shop", "Pod", fmt.Sprint("p", i)}, web, traffic.AtSource, false, traffic.Totals{Requests: 10}))
	}
	if g = Merge(now, []*Part{p}, nil); len(g.Nodes) != MaxNodes || g.Other.Edges != MaxNodes+1 {
		t.Errorf("%d nodes, other %+v", len(g.Nodes), g.Other)
	}
}

// TestFor: a reader of one namespace sees what touches it, and not what is set elsewhere.
func TestFor(t *testing.T) {
	p := part(
		count(app, web, traffic.AtSource, false, traffic.Totals{Requests: 10}), count(web, vault, traffic.AtSource, true, traffic.Totals{Requests: 10}),
		count(out, vault, traffic.AtDestination, false, traffic.Totals{Opened: 10}), Count{Other: true, Totals: traffic.Totals{Requests: 1}})
	p.Workloads = []Workload{{End: web, Modes: []string{"strict"}, Policies: []string{"store/p"}}, {End: app, Modes: []string{"permissive"}}}
	g := Merge(now, []*Part{p}, []string{"gone"}).For(func(ns string) bool { return ns == "shop" })
	want := &Graph{
		Time: now.UTC(), Window: 10, Missing: []string{"gone"},
		Nodes: []Node{{ID: app.id(), End: app, Modes: []string{"permissive"}}, {ID: web.id(), End: web}},
		Edges: []Edge{{ID: app.id() + ">" + web.id(), From: app.id(), To: web.id(), MTLS: NoMTLS, Requests: 1}},
	}
	if d := cmp.Diff(want, g); d != "" {
		t.Error(d)
	}
	if g = Merge(now, []*Part{p}, nil).For(func(string) bool { return false }); len(g.Edges)+len(g.Nodes) > 0 {
		t.Errorf("for nobody: %s", text(g))
	}
}

func TestIDs(t *testing.T) {
	seen := map[string]End{}
	for _, e := range []End{{"a", "b", "c"}, {"a/b", "", "c"}, {"a", "b/c", ""}, {"a", "", "b/c"}, {"a%2Fb", "", "c"}, {"a>b", "", "c"}, {}} {
		if other, twice := seen[e.id()]; twice {
			t.Errorf("%+v and %+v are both %s", e, other, e.id())
		}
		seen[e.id()] = e
	}
	p := Pair{app, out}
	if got := ParsePair(p.Values()); got != p {
		t.Errorf("%+v, want %+v", got, p)
	}
}

func TestDOT(t *testing.T) {
	var b strings.Builder
	p := part(count(End{"a\"b", "Pod", `x\" -> y; "`}, web, traffic.AtSource, true, traffic.Totals{Requests: 10}), count(out, web, traffic.AtSource, false, traffic.Totals{Failed: 10}))
	if err := WriteDOT(&b, Merge(now, []*Part{p}, nil)); err != nil {
		t.Fatal(err)
	}
	const want = `digraph weft {
  rankdir=LR; node [shape=box];
    "//" [label="outside of the mesh"];
  subgraph "cluster_a\"b" {
    label="a\"b";
    "a\"b/Pod/x\\\" -%3E y; \"" [label="x\\\" -> y; \" (Pod)"];
  }
  subgraph "cluster_store" {
    label="store";
    "store/Deployment/web" [label="web (Deployment)"];
  }
  "//" -> "store/Deployment/web" [label="1 failed/s", style=dashed, color=red];
  "a\"b/Pod/x\\\" -%3E y; \"" -> "store/Deployment/web" [label="1 req/s", style=solid];
}
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}
