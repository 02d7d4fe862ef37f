package gateway

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
)

// pathsPolicy allows n paths to all. Policies of a higher order are younger.
func pathsPolicy(namespace, name string, order, n int) *weftv1.AuthorizationPolicy {
	p := &weftv1.AuthorizationPolicy{ObjectMeta: created(namespace, name, 1000-order)}
	p.Spec.Action = weftv1.ActionAllow
	for i := range n {
		if i%64 == 0 {
			p.Spec.Rules = append(p.Spec.Rules, weftv1.AuthorizationRule{HTTP: []weftv1.HTTPAttributes{{}}})
		}
		h := &p.Spec.Rules[len(p.Spec.Rules)-1].HTTP[0]
		h.Paths = append(h.Paths, weftv1.PathMatch{Value: fmt.Sprintf("/%s/%d", name, i)})
	}
	return p
}

// paths returns how many paths of each policy a pod allows.
func (w *world) paths(pod string) map[string]int {
	p, ok := w.st.Workloads.Get(w.st.Snapshot(), pod)
	if !ok || p.Policy == nil {
		return nil
	}
	out := map[string]int{}
	for _, r := range p.Policy.Rules {
		for _, h := range r.HTTP {
			for _, m := range h.Paths {
				out[strings.Split(m.Value, "/")[1]]++
			}
		}
	}
	return out
}

// TestPoliciesHaveABudget: each pod has its own copy of all that its policies compare, and compares one after another. The older
// policies stay as far as they fit. What does not fit allows nothing, and the pod stays closed.
func TestPoliciesHaveABudget(t *testing.T) {
	w := newWorld(testConfig)
	for _, ns := range []string{"greedy", "modest"} {
		pod := &corev1.Pod{ObjectMeta: created(ns, "p", 1)}
		pod.Status.PodIP = map[string]string{"greedy": "10.0.0.1", "modest": "10.0.0.2"}[ns]
		w.put(t, pod)
	}
	for i, n := range []int{500, 400, 200, 50} {
		w.put(t, pathsPolicy("greedy", fmt.Sprint("p", i), i, n))
	}
	w.put(t, pathsPolicy("greedy", "huge", 50, 60_000), pathsPolicy("modest", "p0", 90, 500))
	w.Sync()
	got := w.paths("greedy/p")
	if got["p0"] != 500 || got["p1"] != 400 || got["p2"] != 0 || got["p3"] != 50 || got["huge"] != 0 {
		t.Errorf("the pod allows %v", got)
	}
	if got := w.paths("modest/p"); got["p0"] != 500 {
		t.Errorf("another namespace's pod allows %v", got)
	}
	if p := w.problemOf("Pod", "greedy", "p"); !strings.Contains(p, "OverBudget") || !strings.Contains(p, "greedy/p2 has 2") {
		t.Errorf("problem of the pod: %q", p)
	}
	if p := w.problemOf("AuthorizationPolicy", "greedy", "huge"); !strings.Contains(p, "the policy allows nothing") {
		t.Errorf("problem of the policy: %q", p)
	}
}

// TestOnlyPoliciesThatDoNotFit restrict a pod all the same.
func TestOnlyPoliciesThatDoNotFit(t *testing.T) {
	w := newWorld(testConfig)
	pod := &corev1.Pod{ObjectMeta: created("greedy", "p", 1)}
	pod.Status.PodIP = "10.0.0.1"
	w.put(t, pod, pathsPolicy("greedy", "huge", 1, 60_000))
	w.Sync()
	p, ok := w.st.Workloads.Get(w.st.Snapshot(), "greedy/p")
	if !ok || p.Policy == nil || len(p.Policy.Rules) > 0 {
		t.Errorf("policy %+v, want one that allows nothing", p.Policy)
	}
}
