package gateway

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// maxServedListeners bounds the listeners of all Gateways. Each is a listener of Envoy or a filter chain, on every node that may
// serve Gateways: some 70 KB with one worker, measured with Envoy 1.40, whether or not a client ever comes.
const maxServedListeners = 8192

// listenerDemand is how many listeners a Gateway serves, with its ListenerSets.
type listenerDemand struct {
	gateway   string // key
	created   time.Time
	listeners int
}

// listenerRefusal is a Gateway that is over its namespace's budget.
type listenerRefusal struct{ gateway, why string }

func newListenerDemands(db *state.DB) *state.Table[*listenerDemand] {
	return state.NewTable(db, "gateway-listener-demands", func(d *listenerDemand) string { return d.gateway })
}

func newListenerRefusals(db *state.DB) *state.Table[*listenerRefusal] {
	return state.NewTable(db, "gateway-listener-refusals", func(r *listenerRefusal) string { return r.gateway })
}

var listenerDemandUnits = unitKind{
	name: "demand of a Gateway", stage: stageDemands,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.Gateway] { return o.Gateways }),
	compute: func(v *view, key string) ([]output, bool) {
		gw, ok := v.objs.Gateways.Get(v.Snapshot, key)
		if !ok {
			return nil, false
		}
		if a, ok := v.assignments.Get(v.Snapshot, key); !ok || !a.accepted.ok() || len(a.addresses) == 0 {
			return nil, true // nothing listens for it
		}
		d := &listenerDemand{gateway: key, created: gw.CreationTimestamp.Time}
		for p := range v.merged.By(v.Snapshot, byGateway, key) {
			for _, l := range p.listeners {
				if l.accepted.ok() {
					d.listeners++
				}
			}
		}
		return []output{out(v.listenerDemands, key, d)}, true
	},
}

// listenerBudgetUnit divides the listeners that Envoy can hold among the namespaces of Gateways.
var listenerBudgetUnit = unitKind{name: "listener budget", stage: stageBudgets, compute: divideListeners}

func divideListeners(v *view, _ string) ([]output, bool) {
	return divideAmong(v.cfg, v.listenerDemands.All(v.Snapshot), [2]int{maxServedListeners},
		func(d *listenerDemand) (string, [2]int) {
			ns, _ := model.SplitKey(d.gateway)
			return ns, [2]int{d.listeners}
		},
		func(over []*listenerDemand, share [2]int) (outs []output) {
			for _, r := range refuseGateways(over, share[0]) {
				outs = append(outs, out(v.listenerRefusals, r.gateway, r))
			}
			return outs
		}), true
}

// refuseGateways returns the Gateways of a namespace that the older ones leave no room for.
func refuseGateways(demands []*listenerDemand, share int) []*listenerRefusal {
	slices.SortFunc(demands, func(a, b *listenerDemand) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.gateway, b.gateway))
	})
	left := share
	var out []*listenerRefusal
	for _, d := range demands {
		if d.listeners <= left {
			left -= d.listeners
			continue
		}
		out = append(out, &listenerRefusal{d.gateway, fmt.Sprintf(
			"older Gateways of the namespace leave %d of its %d listeners, and this one has %d with its ListenerSets; use fewer, or raise --namespace-share (chart value namespaceShare)",
			left, share, d.listeners)})
	}
	return out
}
