package gateway

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weft-mesh/weft/internal/model"
)

// probedPod is a strict pod of this node, with an address of each family, that declares n requests by probes. Pods of a higher order
// are younger.
func probedPod(namespace, name string, order, n int) *corev1.Pod {
	p := clusterPod(name, namespace+name, fmt.Sprintf("10.%d.%d.1", len(namespace), order), fmt.Sprintf("2001:db8:%d::%d", len(namespace), order+1))
	p.ObjectMeta = created(namespace, name, 1000-order)
	p.Labels = map[string]string{"weft.io/mtls": "strict"}
	for i := range n {
		get := &corev1.HTTPGetAction{Path: fmt.Sprintf("/live/%d", i), Port: intstr.FromInt32(8080)}
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
			Name: fmt.Sprint("c", i), LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: get}},
		})
	}
	return p
}

func (w *world) callsIn(namespace, name string) int {
	row, ok := w.st.Workloads.Get(w.st.Snapshot(), model.Key(namespace, name))
	if !ok {
		return -1
	}
	return len(row.Probes)
}

// TestOnePodDoesNotFillProbes: a pod has as many calls by the kubelet as one may, and says so.
func TestOnePodDoesNotFillProbes(t *testing.T) {
	w := clusterNode()
	w.put(t, probedPod("greedy", "p", 0, 3000), probedPod("modest", "p", 1, maxCalls))
	w.Translator.Sync()
	if got := w.callsIn("greedy", "p"); got != maxCalls {
		t.Errorf("a pod with 3,000 requests has %d, want %d", got, maxCalls)
	}
	if p := w.problemOf("Pod", "greedy", "p"); !strings.Contains(p, "OverBudget") || !strings.Contains(p, "3000 different calls") {
		t.Errorf("its problem is %q", p)
	}
	if got := w.callsIn("modest", "p"); got != maxCalls {
		t.Errorf("another pod has %d calls, want %d", got, maxCalls)
	}
	if p := w.problemOf("Pod", "modest", "p"); p != "" {
		t.Errorf("its problem is %q", p)
	}
}

// TestOneNamespaceDoesNotFillProbes: the pods of a namespace share what it may have, the older ones first, and later pods of others have
// all that they declare. Pods of other nodes take nothing.
func TestOneNamespaceDoesNotFillProbes(t *testing.T) {
	w := clusterNode()
	const fit = model.MaxProbes * defaultShare / 100 / (2 * maxCalls)
	name := func(i int) string { return fmt.Sprintf("p%03d", i) }
	for i := range fit + 3 {
		w.put(t, probedPod("greedy", name(i), i, maxCalls))
		far := probedPod("greedy", "far"+name(i), 100+i, maxCalls)
		far.Spec.NodeName = "far"
		w.put(t, far)
	}
	w.put(t, probedPod("modest", "late", 900, 20))
	w.Translator.Sync()
	check := func(what string, first int) {
		t.Helper()
		for i := first; i < fit+3; i++ {
			want := 0
			if i < first+fit {
				want = maxCalls
			}
			if got := w.callsIn("greedy", name(i)); got != want {
				t.Errorf("%s: %s has %d calls, want %d", what, name(i), got, want)
			}
		}
		if got := w.callsIn("modest", "late"); got != 20 {
			t.Errorf("%s: a later pod of another namespace has %d calls, want 20", what, got)
		}
	}
	check("all pods", 0)
	if p := w.problemOf("Pod", "greedy", name(fit)); !strings.Contains(p, "OverBudget") || !strings.Contains(p, "and 0 of its 8192 requests") {
		t.Errorf("the problem of the first that does not fit is %q", p)
	}
	if p := w.problemOf("Pod", "greedy", name(0)); p != "" {
		t.Errorf("the problem of the oldest is %q", p)
	}
	txn := w.objs.Write()
	if err := w.objs.Delete(txn, schema.GroupKind{Kind: "Pod"}, model.Key("greedy", name(0))); err != nil {
		t.Fatal(err)
	}
	txn.Commit()
	w.Translator.Sync()
	check("without the oldest", 1)
}
