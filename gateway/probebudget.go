package gateway

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// maxCalls bounds the calls of the kubelet that are let in to one pod. A Pod can have some thousand containers, each with five.
const maxCalls = 256

// probeDemand is what a pod of this node would take of the kernel's tables of probes, if it is strict or has a policy.
type probeDemand struct {
	pod      string // key
	created  time.Time
	ports    int // that are called, at each address
	requests int // likewise
}

// probeRefusal is a pod that is over its namespace's budget.
type probeRefusal struct{ pod, why string }

func newProbeDemands(db *state.DB) *state.Table[*probeDemand] {
	return state.NewTable(db, "gateway-probe-demands", func(d *probeDemand) string { return d.pod })
}

func newProbeRefusals(db *state.DB) *state.Table[*probeRefusal] {
	return state.NewTable(db, "gateway-probe-refusals", func(r *probeRefusal) string { return r.pod })
}

var probeDemandUnits = unitKind{
	name: "demand of a Pod", stage: stageDemands, compute: findProbeDemand,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*corev1.Pod] { return o.Pods }),
}

func findProbeDemand(v *view, key string) ([]output, bool) {
	pod, ok := v.objs.Pods.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	here := v.cfg.Node != "" && pod.Spec.NodeName == v.cfg.Node || v.placement(pod) != nil
	if !here || pod.Spec.HostNetwork || kube.Ended(pod) {
		return nil, true
	}
	var ignored problems
	calls := callsOf(pod, &ignored)
	addrs, _ := v.addresses(pod)
	d := &probeDemand{pod: key, created: pod.CreationTimestamp.Time}
	for i, c := range calls {
		if i == 0 || calls[i-1].Port != c.Port {
			d.ports += len(addrs)
		}
		if c.Kind == model.ProbeHTTP {
			d.requests += len(addrs)
		}
	}
	if d.ports == 0 {
		return nil, true
	}
	return []output{out(v.probeDemands, key, d)}, true
}

// callsOf returns the calls that a pod declares, as many as one may have.
func callsOf(pod *corev1.Pod, t *problems) []model.Probe {
	all := probesOf(pod, t)
	if len(all) > maxCalls {
		t.add("OverBudget", fmt.Sprintf("the pod declares %d different calls by probes and hooks, and the first %d by port are let in: "+
			"while it is strict or has a policy, the kubelet's others are refused; use fewer ports and paths", len(all), maxCalls))
	}
	return all[:min(len(all), maxCalls)]
}

// probeBudgetUnit divides the kernel's tables of probes among the namespaces that have pods on this node.
var probeBudgetUnit = unitKind{name: "probe budget", stage: stageBudgets, compute: divideProbes}

func divideProbes(v *view, _ string) ([]output, bool) {
	return divideAmong(v.cfg, v.probeDemands.All(v.Snapshot), [2]int{model.MaxProbes, model.MaxProbes},
		func(d *probeDemand) (string, [2]int) {
			ns, _ := model.SplitKey(d.pod)
			return ns, [2]int{d.ports, d.requests}
		},
		func(over []*probeDemand, share [2]int) (outs []output) {
			for _, r := range refuseProbes(over, share[0], share[1]) {
				outs = append(outs, out(v.probeRefusals, r.pod, r))
			}
			return outs
		}), true
}

// refuseProbes returns the pods of a namespace that the older ones leave no room for.
func refuseProbes(demands []*probeDemand, ports, requests int) []*probeRefusal {
	slices.SortFunc(demands, func(a, b *probeDemand) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.pod, b.pod))
	})
	leftPorts, leftRequests := ports, requests
	var out []*probeRefusal
	for _, d := range demands {
		if d.ports <= leftPorts && d.requests <= leftRequests {
			leftPorts, leftRequests = leftPorts-d.ports, leftRequests-d.requests
			continue
		}
		out = append(out, &probeRefusal{d.pod, fmt.Sprintf("older pods of the namespace on this node leave %d of its %d ports and %d of its %d requests of probes and hooks, "+
			"and this one has %d and %d: while it is strict or has a policy, the kubelet's calls are refused; "+
			"declare fewer, or raise --namespace-share (chart value namespaceShare)", leftPorts, ports, leftRequests, requests, d.ports, d.requests)})
	}
	return out
}

// calls returns the calls by the kubelet that are let in to a pod of this node.
func (v *view) calls(pod *corev1.Pod, t *problems) []model.Probe {
	if r, refused := v.probeRefusals.Get(v.Snapshot, kube.Key(pod)); refused {
		t.add("OverBudget", r.why)
		return nil
	}
	return callsOf(pod, t)
}
