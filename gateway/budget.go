package gateway

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// defaultShare is Config.NamespaceShare if it is not set.
const defaultShare = 25

// systemNamespace gets what it asks for before all others, within its share. An eighth of each table is reserved for it.
const (
	systemNamespace = "kube-system"
	systemReserve   = 8
)

// maxClosed bounds the addresses of refused Services that are closed in one namespace. Each takes an entry in the kernel's
// table of pods.
const maxClosed = 16_384

// allotment is what a Service gets that does not get all that it asks for.
type allotment struct {
	service string // key
	// refused says that the kernel does not balance the Service. Else each port has that number of backends.
	refused  bool
	backends int
	// open says that the addresses of a refused Service are not closed, because too many are.
	open bool
	why  string
}

func newAllotments(db *state.DB) *state.Table[*allotment] {
	return state.NewTable(db, "gateway-allotments", func(a *allotment) string { return a.service })
}

// budgetUnit divides the kernel's tables of Services among namespaces. It is one for all, because what one namespace gets
// depends on the others.
var budgetUnit = unitKind{name: "budget", stage: stageBudgets, compute: divide}

func divide(v *view, _ string) ([]output, bool) {
	return divideAmong(v.cfg, v.demands.All(v.Snapshot), [2]int{model.MaxFrontends, model.MaxSlots},
		func(d *demand) (string, [2]int) { return d.namespace, [2]int{d.frontends, d.slots} },
		func(over []*demand, share [2]int) (outs []output) {
			for _, a := range allot(over, share[0], share[1]) {
				outs = append(outs, out(v.allotments, a.service, a))
			}
			return outs
		}), true
}

// divideAmong gives each namespace its share of two resources, of which there are most. of returns what a demand asks for.
// A namespace that asks for less than its share gets all, whatever others ask for; those that ask for more are divided by
// allot, which gets all demands of one namespace and its shares.
func divideAmong[D any](cfg *Config, demands iter.Seq[D], most [2]int, of func(D) (namespace string, asks [2]int),
	allot func(over []D, share [2]int) []output) (outs []output) {
	var asked [2]map[string]int
	for i := range asked {
		asked[i] = map[string]int{}
	}
	for d := range demands {
		ns, asks := of(d)
		for i, n := range asks {
			asked[i][ns] += n
		}
	}
	first, second := cfg.shares(most[0], 0, asked[0]), cfg.shares(most[1], 0, asked[1])
	over := map[string][]D{}
	for d := range demands {
		if ns, _ := of(d); asked[0][ns] > first(ns) || asked[1][ns] > second(ns) {
			over[ns] = append(over[ns], d)
		}
	}
	for ns, all := range over {
		outs = append(outs, allot(all, [2]int{first(ns), second(ns)})...)
	}
	return outs
}

// shares returns what each namespace may have of a table of so many entries. No namespace has more than NamespaceShare. If
// all of them together ask for more than there is, all get the same at most, and those that ask for less keep what they
// have. kept is the number of entries that no namespace gets as its share.
func (c *Config) shares(entries, kept int, asked map[string]int) func(namespace string) int {
	share := c.NamespaceShare
	if share == 0 {
		share = defaultShare
	}
	most := entries * share / 100
	system := min(asked[systemNamespace], most)
	var others []int
	for ns, n := range asked {
		if ns != systemNamespace {
			others = append(others, min(n, most))
		}
	}
	level := min(most, fairLevel(max(0, entries-kept-max(system, entries/systemReserve)), others))
	return func(ns string) int {
		if ns == systemNamespace {
			return most
		}
		return level
	}
}

// fairLevel returns the largest number n for which no more than capacity is given away if each gets what it asks for but no
// more than n.
func fairLevel(capacity int, asked []int) int {
	slices.Sort(asked)
	for i, n := range asked {
		left := len(asked) - i
		if n*left > capacity {
			return capacity / left
		}
		capacity -= n
	}
	return math.MaxInt
}

// allot returns the Services of a namespace that do not get all that they ask for. The older Service comes before the
// younger.
func allot(demands []*demand, frontends, slots int) []*allotment {
	slices.SortFunc(demands, func(a, b *demand) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.service, b.service))
	})
	const remedy = "delete older ones, or raise --namespace-share (chart value namespaceShare)"
	shareOfFrontends, shareOfSlots, closed := frontends, slots, 0
	var out []*allotment
	for _, d := range demands {
		a := &allotment{service: d.service}
		backends := slots
		if d.sets > 0 {
			backends = slots / d.sets
		}
		switch {
		case d.frontends > frontends:
			a.refused = true
			a.why = fmt.Sprintf("older Services of the namespace leave %d of its %d addresses with a port, and this one has %d; %s",
				frontends, shareOfFrontends, d.frontends, remedy)
		case d.slots <= slots:
			frontends, slots = frontends-d.frontends, slots-d.slots
			continue
		case backends == 0:
			a.refused = true
			a.why = fmt.Sprintf("older Services of the namespace leave %d of its %d backends, and this one has %d; %s", slots, shareOfSlots, d.slots, remedy)
		default:
			a.backends = backends
			a.why = fmt.Sprintf("%d backends of each port are served: older Services of the namespace leave %d of its %d, and this one has %d; %s",
				backends, slots, shareOfSlots, d.slots, remedy)
			frontends, slots = frontends-d.frontends, slots-backends*d.sets
		}
		if a.refused {
			closed += d.addresses
			a.open = closed > maxClosed
		}
		out = append(out, a)
	}
	return out
}

// allotted applies what is left for a Service to its addresses. Connections to those that are not balanced are refused where
// they would have to be authenticated.
func (v *view) allotted(s *model.Service, t *problems) {
	a, ok := v.allotments.Get(v.Snapshot, s.Key())
	if !ok {
		return
	}
	t.add("OverBudget", a.why)
	if !a.refused {
		return
	}
	if !a.open {
		s.Refused = s.Addresses
	}
	s.Addresses = nil
}
