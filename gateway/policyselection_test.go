package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// TestAServiceTakesNoPodOutOfAPolicy deletes and changes the Service that a policy targets, as somebody does who may
// not change the policy.
func TestAServiceTakesNoPodOutOfAPolicy(t *testing.T) {
	w := newWorld(testConfig)
	service := func(app string) {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "web"}}
		s.Spec.ClusterIP = "10.96.0.1"
		if app != "" {
			s.Spec.Selector = map[string]string{"app": app}
		}
		w.put(t, s)
	}
	// restart makes a new translator with what the last one kept, while change is made.
	restart := func(change func()) {
		kept := map[string]*Selection{}
		for s := range w.Selections().All(w.st.Snapshot()) {
			text, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			kept[s.Policy] = &Selection{}
			if err := json.Unmarshal(text, kept[s.Policy]); err != nil {
				t.Fatal(err)
			}
		}
		change()
		w = again(w, func(cfg *Config) { cfg.Retained = func() Retained { return Retained{Selections: kept} } })
	}
	remove := func(group, kind, name string) {
		txn := w.objs.Write()
		if err := w.objs.Delete(txn, schema.GroupKind{Group: group, Kind: kind}, "bank/"+name); err != nil {
			t.Fatal(err)
		}
		txn.Commit()
	}
	policy := func(source string) {
		p := &weftv1.AuthorizationPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "p"}}
		p.Spec = weftv1.AuthorizationPolicySpec{
			TargetRefs: []weftv1.PolicyTarget{{Kind: "Service", Name: "web"}}, Action: weftv1.ActionAllow,
			Rules: []weftv1.AuthorizationRule{{Sources: []weftv1.AuthorizationSource{{Type: weftv1.SourceNamespace, Namespace: source}}}},
		}
		w.put(t, p)
	}
	for i, app := range []string{"blue", "green", "other"} {
		w.put(t, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: app, Labels: map[string]string{"app": app}},
			Status:     corev1.PodStatus{PodIP: fmt.Sprintf("10.0.0.%d", i+1)},
		})
	}
	for _, step := range []struct {
		what    string
		do      func()
		pods    string // that the policy selects
		reason  string
		message string
	}{
		{"the Service is not there yet", func() { policy("a") }, "blue green other", "TargetNotFound", "every pod of the namespace"},
		{"it comes", func() { service("blue") }, "blue", "Accepted", ""},
		{"it is deleted", func() { remove("", "Service", "web") }, "blue", "TargetNotFound", "stay selected"},
		{"the agent restarts", func() { restart(func() {}) }, "blue", "TargetNotFound", "stay selected"},
		{"it comes back for other pods", func() { service("green") }, "blue green", "Accepted", "stay selected"},
		{"it changes while no agent runs", func() { restart(func() { service("other") }) }, "blue green other", "Accepted", "stay selected"},
		{"the policy changes while no agent runs", func() { restart(func() { service("blue"); policy("c") }) }, "blue", "Accepted", ""},
		{"the Service is deleted while no agent runs", func() { restart(func() { remove("", "Service", "web") }) }, "blue", "TargetNotFound", "stay selected"},
		{"it comes back for other pods again", func() { service("green") }, "blue green", "Accepted", "stay selected"},
		{"it has no selector any more", func() { service("") }, "blue green", "TargetNotFound", "stay selected"},
		{"the policy changes", func() { policy("b") }, "blue green other", "TargetNotFound", "every pod of the namespace"},
		{"it selects again", func() { service("green") }, "green", "Accepted", ""},
		{"the policy goes and comes back", func() {
			service("blue")
			remove(weftv1.Group, "AuthorizationPolicy", "p")
			w.Sync()
			policy("b")
		}, "blue", "Accepted", ""},
		{"it has as many selectors as are kept", func() {
			for i := range maxSelectors - 1 {
				service(fmt.Sprint("green", i))
				w.Sync()
			}
		}, "blue", "Accepted", "stay selected"},
		{"it has one more", func() { service("green") }, "blue green other", "TargetNotFound", "every pod of the namespace"},
		{"and goes on", func() { service("another") }, "blue green other", "TargetNotFound", "every pod of the namespace"},
		{"the agent restarts after too many", func() { restart(func() {}) }, "blue green other", "TargetNotFound", "every pod of the namespace"},
		{"the policy changes after too many", func() { policy("d"); service("blue") }, "blue", "Accepted", ""},
		{"a selector is too long", func() { service(strings.Repeat("x", maxSelectorBytes)) }, "blue green other", "TargetNotFound", "every pod of the namespace"},
		{"what was kept is lost", func() {
			policy("e")
			service("blue")
			w.Sync()
			w = again(w, func(cfg *Config) { cfg.Retained = func() Retained { return Retained{Lost: true} } })
		}, "blue green other", "TargetNotFound", "every pod of the namespace"},
		{"the policy goes and comes back as it was", func() {
			remove(weftv1.Group, "AuthorizationPolicy", "p")
			w.Sync()
			policy("e")
		}, "blue", "Accepted", ""},
	} {
		step.do()
		w.Sync()
		var pods []string
		for p := range w.st.Workloads.All(w.st.Snapshot()) {
			if p.Policy != nil && slices.Contains(p.Policy.Names, "bank/p") {
				pods = append(pods, p.Name)
			}
		}
		if got := strings.Join(pods, " "); got != step.pods {
			t.Errorf("%s: the policy selects %s, want %s", step.what, got, step.pods)
		}
		s, ok := w.st.Statuses.Get(w.st.Snapshot(), model.ObjectRef{Group: weftv1.Group, Kind: "AuthorizationPolicy", Namespace: "bank", Name: "p"}.String())
		if !ok {
			t.Fatalf("%s: the policy has no status", step.what)
		}
		if c := s.Conditions[0]; c.Reason != step.reason || !strings.Contains(c.Message, step.message) || (step.message == "") != (c.Message == "") {
			t.Errorf("%s: condition %+v, want %s with %q", step.what, c, step.reason, step.message)
		}
	}
}

// again returns a world with the same objects and another translator, which has not run yet.
func again(w *world, change func(*Config)) *world {
	cfg := testConfig
	change(&cfg)
	next := newWorld(cfg)
	snap, txn := w.st.Snapshot(), next.objs.Write()
	for p := range w.objs.Pods.All(snap) {
		next.objs.Pods.Put(txn, p)
	}
	for s := range w.objs.Services.All(snap) {
		next.objs.Services.Put(txn, s)
	}
	for p := range w.objs.AuthorizationPolicies.All(snap) {
		next.objs.AuthorizationPolicies.Put(txn, p)
	}
	txn.Commit()
	return next
}
