package servicemap

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/traffic"
)

const (
	// MaxFlows are the last flows of an edge that are shown.
	MaxFlows = 50
	// maxText bounds a text that a client chose, in bytes: a path, a host.
	maxText = 1024
	// maxSearches bounds the searches for flows at once, which take a processor; others wait.
	maxSearches = 2
	// askTimeout bounds how long the node's Envoy is waited for.
	askTimeout = 5 * time.Second
)

// Counter has counted traffic: traffic.Connections, traffic.Datagrams.
type Counter interface {
	AddTotals(map[traffic.Labels]traffic.Totals)
}

// Local answers for the node of an agent.
type Local struct {
	st       *state.State
	flows    *observe.Store
	recorder *Recorder
	searches chan struct{}
}

// NewLocal makes a Local of what its agent counts: requests, and what others add.
func NewLocal(st *state.State, flows *observe.Store, requests *traffic.Requests, others ...Counter) *Local {
	return &Local{st: st, flows: flows, searches: make(chan struct{}, maxSearches), recorder: NewRecorder(
		func(ctx context.Context) map[traffic.Labels]traffic.Totals {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			_ = requests.Update(ctx) // while Envoy does not answer, what it said before counts; weft status says so
			out := map[traffic.Labels]traffic.Totals{}
			requests.AddTotals(out)
			for _, c := range others {
				c.AddTotals(out)
			}
			return out
		})}
}

// Part returns what the node counts, and what is set for its own pods of that.
func (n *Local) Part(ctx context.Context) *Part {
	p := n.recorder.Part(ctx)
	ends := map[End]bool{}
	for i := range p.Counts {
		ends[p.Counts[i].From], ends[p.Counts[i].To] = true, true
	}
	p.Workloads = n.workloads(ends)
	return p
}

func (n *Local) workloads(of map[End]bool) []Workload {
	at := map[End]*Workload{}
	for w := range n.st.Workloads.All(n.st.Snapshot()) {
		owner := w.CountedAs()
		end := End{w.Namespace, owner.Kind, owner.Name}
		if !w.Local || !of[end] {
			continue
		}
		into := at[end]
		if into == nil {
			into = &Workload{End: end}
			at[end] = into
		}
		into.Modes = insert(into.Modes, w.MTLS.String())
		if w.Policy != nil {
			for _, name := range w.Policy.Names {
				into.Policies = insert(into.Policies, name)
			}
		}
	}
	out := make([]Workload, 0, len(at))
	for _, w := range at {
		w.Policies = w.Policies[:min(len(w.Policies), maxPolicies)]
		out = append(out, *w)
	}
	slices.SortFunc(out, func(a, b Workload) int { return compareEnds(a.End, b.End) })
	return out
}

// insert adds a text to sorted ones.
func insert(to []string, s string) []string {
	if at, found := slices.BinarySearch(to, s); !found {
		return slices.Insert(to, at, s)
	}
	return to
}

// Flows returns the last flows of a pair, at most MaxFlows, the newest first.
func (n *Local) Flows(ctx context.Context, p Pair) ([]observe.Flow, error) {
	select {
	case n.searches <- struct{}{}:
		defer func() { <-n.searches }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var out []observe.Flow
	for e := range n.flows.History(observe.Filter{}.And(func(f *observe.Flow) bool { return n.of(p, f) }), MaxFlows) {
		if e.Flow != nil {
			out = append(out, clipped(*e.Flow))
		}
	}
	slices.Reverse(out)
	return out, nil
}

// of reports whether a flow is of a pair. Requests to a Gateway are counted as the Gateway's and are flows of its clients.
func (n *Local) of(p Pair, f *observe.Flow) bool {
	if f.HTTP != nil && f.HTTP.Backend != "" && f.Destination.Workload == "" {
		to := *f
		to.Destination.Workload = f.HTTP.Backend
		f = &to
	}
	l := traffic.LabelsOf(n.st, f)
	got := PairOf(&l)
	if p.From.Kind == gatewayKind && got.From.Name == "" && f.SeenAt == observe.AtSource {
		return got.To == p.To
	}
	return got == p
}

// clipped returns a flow in which no text is long.
func clipped(f observe.Flow) observe.Flow {
	if f.HTTP != nil {
		h := *f.HTTP
		h.Method, h.Host, h.Path = clip(h.Method), clip(h.Host), clip(h.Path)
		f.HTTP = &h
	}
	f.Reason = clip(f.Reason)
	return f
}

func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// LastFlows joins the flows of nodes, and what both ends report of a connection: the last MaxFlows, the newest first.
func LastFlows(of ...[]observe.Flow) []observe.Flow {
	all := slices.Concat(of...)
	slices.SortStableFunc(all, func(a, b observe.Flow) int { return b.Time.Compare(a.Time) })
	out := observe.JoinEnds(all)
	return out[:min(len(out), MaxFlows)]
}
