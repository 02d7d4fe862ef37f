package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Selection holds the selectors of the Services that a policy names. Who may change Services need not be allowed to
// change policies, so a Service that is deleted, or that selects other pods, takes no pod out of a policy: each selector
// is kept until the policy itself changes, also while no translator runs (Config.Retained).
type Selection struct {
	Policy string    `json:"-"` // namespace/name
	UID    types.UID `json:"uid,omitempty"`
	// Spec is the hash of the policy's spec, in hexadecimal. The selectors were seen while the policy had that spec.
	Spec     string                      `json:"spec"`
	Services map[string]ServiceSelectors `json:"services"`
}

// ServiceSelectors are the selectors that a Service has had since the policy changed.
type ServiceSelectors struct {
	Selectors []map[string]string `json:"selectors,omitempty"` // the latest last
	// All means that they are not known, or that they were too many or too long: every pod of the namespace is selected.
	All bool `json:"all,omitempty"`
}

const (
	// maxSelectors and maxSelectorBytes bound what is kept for one Service.
	maxSelectors     = 8
	maxSelectorBytes = 4 << 10
)

// Retained is what an earlier translator kept.
type Retained struct {
	Selections map[string]*Selection // by policy
	// Lost means that the selections could not be read. Each Service of a policy then selects every pod of the namespace
	// until the policy changes.
	Lost bool
}

func newSelections(db *state.DB) *state.Table[*Selection] {
	return state.NewTable(db, "gateway-policy-selections", func(s *Selection) string { return s.Policy })
}

// Selections is the table of what is kept of the Services that policies name.
func (t *Translator) Selections() *state.Table[*Selection] { return t.selections }

var selectionUnits = unitKind{
	name: "policy selection", stage: stageSelections, compute: findSelection,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*weftv1.AuthorizationPolicy] { return o.AuthorizationPolicies }),
}

// findSelection adds what the Services of a policy select now to what they selected before.
func findSelection(v *view, key string) ([]output, bool) {
	ap, ok := v.objs.AuthorizationPolicies.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	s := &Selection{Policy: key, UID: ap.UID, Spec: hashSpec(&ap.Spec), Services: map[string]ServiceSelectors{}}
	before := v.selectionBefore(s)
	for _, t := range ap.Spec.TargetRefs {
		if !isServiceTarget(t) {
			continue
		}
		kept := before[t.Name]
		if v.retained.Lost {
			kept = ServiceSelectors{All: true}
		}
		if svc, ok := v.objs.Services.Get(v.Snapshot, model.Key(ap.Namespace, t.Name)); ok && len(svc.Spec.Selector) > 0 {
			kept = kept.with(svc.Spec.Selector)
		}
		s.Services[t.Name] = kept
	}
	if len(s.Services) == 0 {
		return nil, true
	}
	return []output{out(v.selections, key, s)}, true
}

// hashSpec returns the hash of a policy's spec, in hexadecimal.
func hashSpec(spec *weftv1.AuthorizationPolicySpec) string {
	text, err := json.Marshal(spec)
	if err != nil {
		panic(err) // strings and numbers alone
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// selectionBefore returns what the Services of a policy selected before, by Service. It is nil if the policy has changed
// since.
func (v *view) selectionBefore(s *Selection) map[string]ServiceSelectors {
	before, ok := v.selections.Get(v.last, s.Policy)
	if !ok {
		before = v.retained.Selections[s.Policy]
	}
	if before == nil || before.UID != s.UID || before.Spec != s.Spec {
		return nil
	}
	return before.Services
}

// with returns the selectors with one more as the latest.
func (s ServiceSelectors) with(latest map[string]string) ServiceSelectors {
	if s.All {
		return s
	}
	kept := slices.DeleteFunc(slices.Clone(s.Selectors), func(m map[string]string) bool { return maps.Equal(m, latest) })
	kept = append(kept, latest)
	size := 0
	for _, m := range kept {
		for k, v := range m {
			size += len(k) + len(v)
		}
	}
	if len(kept) > maxSelectors || size > maxSelectorBytes {
		return ServiceSelectors{All: true}
	}
	return ServiceSelectors{Selectors: kept}
}

// selectorsOf returns the selectors by which a policy selects the pods of a Service. ok is false if they are not known:
// the policy then selects every pod of its namespace.
func (v *view) selectorsOf(ap *weftv1.AuthorizationPolicy, service string) (selectors []map[string]string, ok bool) {
	s, ok := v.selections.Get(v.Snapshot, kube.Key(ap))
	if !ok {
		return nil, false
	}
	selectors = s.Services[service].Selectors
	return selectors, len(selectors) > 0
}

// selects reports whether a policy restricts a pod. A target that is not understood selects every pod of the namespace:
// a policy that was written for a later version, or that names a Service that is not there, must not open what it was
// to close.
func (v *view) selects(ap *weftv1.AuthorizationPolicy, pod *corev1.Pod) bool {
	if len(ap.Spec.TargetRefs) == 0 {
		return true
	}
	return slices.ContainsFunc(ap.Spec.TargetRefs, func(t weftv1.PolicyTarget) bool {
		switch {
		case isPodTarget(t):
			return podTargeted(t, pod)
		case isServiceTarget(t):
			selectors, ok := v.selectorsOf(ap, t.Name)
			return !ok || slices.ContainsFunc(selectors, func(m map[string]string) bool {
				return labels.SelectorFromSet(m).Matches(labels.Set(pod.Labels))
			})
		}
		return true
	})
}

func isPodTarget(t weftv1.PolicyTarget) bool     { return t.Group == "" && t.Kind == "Pod" }
func isServiceTarget(t weftv1.PolicyTarget) bool { return t.Group == "" && t.Kind == "Service" }

// podTargeted reports whether a target of kind Pod selects this pod. A selector that cannot be read selects every pod:
// else a typing error would open what the policy was to close.
func podTargeted(t weftv1.PolicyTarget, pod *corev1.Pod) bool {
	if t.Name != "" && t.Name != pod.Name {
		return false
	}
	if t.Selector == nil {
		return true
	}
	s, err := metav1.LabelSelectorAsSelector(t.Selector)
	return err != nil || s.Matches(labels.Set(pod.Labels))
}

// everyPod ends the message about a target that is not understood.
const everyPod = "; taken to select every pod of the namespace"

// checkTargets reports the targets that are not understood, and returns what else there is to say about the others.
func (v *view) checkTargets(ap *weftv1.AuthorizationPolicy, t *problems) (notes []string) {
	for i, target := range ap.Spec.TargetRefs {
		at := fmt.Sprintf("targetRefs[%d]: ", i)
		switch {
		case isPodTarget(target):
			if _, err := metav1.LabelSelectorAsSelector(target.Selector); err != nil {
				t.add("Invalid", at+"selector: "+err.Error()+everyPod)
			}
		case isServiceTarget(target):
			problem, note := v.checkService(ap, target.Name)
			if problem != "" {
				t.add("TargetNotFound", at+problem)
			}
			if note != "" && len(notes) < maxMessages {
				notes = append(notes, at+note)
			}
		default:
			t.add("TargetNotFound", at+fmt.Sprintf("kind %q of group %q is neither Pod nor Service", short(target.Kind), short(target.Group))+everyPod)
		}
	}
	return notes
}

func (v *view) checkService(ap *weftv1.AuthorizationPolicy, name string) (problem, note string) {
	svc, there := v.objs.Services.Get(v.Snapshot, model.Key(ap.Namespace, name))
	selectors, known := v.selectorsOf(ap, name)
	switch {
	case !there:
		problem = fmt.Sprintf("there is no Service %q in namespace %s", short(name), ap.Namespace)
	case len(svc.Spec.Selector) == 0:
		problem = fmt.Sprintf("Service %s has no selector", name)
	case !known:
		return fmt.Sprintf("what Service %s selected since the policy changed is not known, or is more than %d selectors or %d bytes", name, maxSelectors, maxSelectorBytes) + everyPod, ""
	case len(selectors) > 1:
		return "", fmt.Sprintf("the pods that Service %s selected before its selector changed stay selected until the policy changes", name)
	default:
		return "", ""
	}
	if !known {
		return problem + everyPod, ""
	}
	return problem + "; the pods that it selected before stay selected until the policy changes", ""
}
