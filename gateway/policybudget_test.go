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
	for i, n := range []int{1500, 1200, 600, 150} {
		w.put(t, pathsPolicy("greedy", fmt.Sprint("p", i), i, n))
	}
	w.put(t, pathsPolicy("greedy", "huge", 50, 60_000), pathsPolicy("modest", "p0", 90, 500))
	w.Sync()
	got := w.paths("greedy/p")
	if got["p0"] != 1500 || got["p1"] != 1200 || got["p2"] != 0 || got["p3"] != 150 || got["huge"] != 0 {
		t.Errorf("the pod allows %v", got)
	}
	if got := w.paths("modest/p"); got["p0"] != 500 {
		t.Errorf("another namespace's pod allows %v", got)
	}
	if p := w.problemOf("Pod", "greedy", "p"); !strings.Contains(p, "OverBudget") || !strings.Contains(p, "greedy/p2 has 6") {
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

// portsRule is for n sources and the ports from first on.
func portsRule(sources, first, ports int) weftv1.AuthorizationRule {
	r := weftv1.AuthorizationRule{NetworkAttributes: &weftv1.NetworkAttributes{}}
	for i := range sources {
		r.Sources = append(r.Sources, weftv1.AuthorizationSource{Type: weftv1.SourceNamespace, Namespace: fmt.Sprint("client-", i)})
	}
	for i := range ports {
		r.NetworkAttributes.Ports = append(r.NetworkAttributes.Ports, int32(first+i))
	}
	return r
}

// rulesPolicy has rules. Policies of a higher order are younger.
func rulesPolicy(name string, order int, rules ...weftv1.AuthorizationRule) *weftv1.AuthorizationPolicy {
	p := pathsPolicy("shop", name, order, 0)
	p.Spec.Rules = rules
	return p
}

// TestOrdinaryPoliciesFit: those that name many ports, or are many for the same port, are what users write.
func TestOrdinaryPoliciesFit(t *testing.T) {
	http := portsRule(64, 1000, 64)
	http.HTTP = []weftv1.HTTPAttributes{{Methods: []string{"GET", "HEAD"}}}
	for range 64 {
		http.HTTP[0].Paths = append(http.HTTP[0].Paths, weftv1.PathMatch{Value: fmt.Sprint("/", len(http.HTTP[0].Paths))})
	}
	var clients, requests []*weftv1.AuthorizationPolicy
	for i := range 700 {
		clients = append(clients, rulesPolicy(fmt.Sprintf("c%03d", i), i, portsRule(1, 8080, 1)))
	}
	for i := range 300 {
		r := portsRule(1, 8080, 1)
		r.HTTP = []weftv1.HTTPAttributes{{Methods: []string{"GET"}, Paths: []weftv1.PathMatch{{Value: "/"}}}}
		requests = append(requests, rulesPolicy(fmt.Sprintf("h%03d", i), i, r))
	}
	for name, policies := range map[string][]*weftv1.AuthorizationPolicy{
		"one rule of 64 sources and 64 ports":           {rulesPolicy("p", 1, portsRule(64, 1000, 64))},
		"64 ports for all":                              {rulesPolicy("p", 1, portsRule(0, 1000, 64))},
		"64 ports whose requests are looked at":         {rulesPolicy("p", 1, http)},
		"one policy for each client of a port":          clients,
		"one policy for each client of a port of HTTP":  requests,
		"the same 64 ports in two policies for clients": {rulesPolicy("p", 1, portsRule(0, 1000, 64)), rulesPolicy("q", 2, portsRule(64, 1000, 64))},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(testConfig)
			pod := &corev1.Pod{ObjectMeta: created("shop", "p", 1)}
			pod.Status.PodIP = "10.0.0.1"
			w.put(t, pod)
			for _, p := range policies {
				w.put(t, p)
			}
			w.Sync()
			p, ok := w.st.Workloads.Get(w.st.Snapshot(), "shop/p")
			if !ok || p.Policy == nil || len(p.Policy.Rules) != len(policies) {
				t.Fatalf("the pod does not have the rules of all %d policies: %s", len(policies), w.problemOf("Pod", "shop", "p"))
			}
			for _, ap := range policies {
				if problem := w.problemOf("AuthorizationPolicy", "shop", ap.Name); problem != "" {
					t.Errorf("policy %s: %s", ap.Name, problem)
				}
			}
		})
	}
}

// TestFilterChainsOfPoliciesAreBounded: each port that Envoy decides on by itself takes 77 KB for each pod.
func TestFilterChainsOfPoliciesAreBounded(t *testing.T) {
	w := newWorld(testConfig)
	pod := &corev1.Pod{ObjectMeta: created("shop", "p", 1)}
	pod.Status.PodIP = "10.0.0.1"
	w.put(t, pod)
	for i := range 4 {
		w.put(t, rulesPolicy(fmt.Sprint("p", i), i, portsRule(0, 1000+32*i, 32)))
	}
	// It is younger, and has no port but those of the oldest.
	w.put(t, rulesPolicy("same", 50, portsRule(0, 1000, 32)), rulesPolicy("large", 51, portsRule(0, 1000, 100)))
	w.Sync()
	p, _ := w.st.Workloads.Get(w.st.Snapshot(), "shop/p")
	if ports := len(p.Policy.Rules); ports != 3 {
		t.Errorf("%d policies fit, want p0, p1 and same", ports)
	}
	if problem := w.problemOf("Pod", "shop", "p"); !strings.Contains(problem, "shop/p2 has 1314") {
		t.Errorf("problem of the pod: %q", problem)
	}
	if problem := w.problemOf("AuthorizationPolicy", "shop", "large"); !strings.Contains(problem, "may have 3072") {
		t.Errorf("problem of the policy: %q", problem)
	}
}
