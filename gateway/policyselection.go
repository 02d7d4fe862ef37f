package gateway

import (
	"fmt"
	"maps"
	"reflect"
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

// selection holds the selectors of the Services that a policy names. Who may change Services need not be allowed to
// change policies, so a Service that is deleted, or that selects other pods, takes no pod out of a policy: each
// selector is kept until the policy itself changes.
type selection struct {
	policy string
	uid    types.UID
	spec   *weftv1.AuthorizationPolicySpec // the selectors were seen while the policy had it
	// services holds the selectors that each Service had, the latest last.
	services map[string][]map[string]string
}

// maxSelectors bounds the selectors that are kept for one Service. With more, the policy selects every pod of its
// namespace.
const maxSelectors = 8

func newSelections(db *state.DB) *state.Table[*selection] {
	return state.NewTable(db, "gateway-policy-selections", func(s *selection) string { return s.policy })
}

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
	s := &selection{policy: key, uid: ap.UID, spec: &ap.Spec, services: map[string][]map[string]string{}}
	before, ok := v.selections.Get(v.last, key)
	if !ok || before.uid != ap.UID || !reflect.DeepEqual(before.spec, s.spec) {
		before = nil
	}
	for _, t := range ap.Spec.TargetRefs {
		if !isServiceTarget(t) {
			continue
		}
		var kept []map[string]string
		if before != nil {
			kept = before.services[t.Name]
		}
		if svc, ok := v.objs.Services.Get(v.Snapshot, model.Key(ap.Namespace, t.Name)); ok && len(svc.Spec.Selector) > 0 {
			kept = withSelector(kept, svc.Spec.Selector)
		}
		s.services[t.Name] = kept
	}
	if len(s.services) == 0 {
		return nil, true
	}
	return []output{out(v.selections, key, s)}, true
}

// withSelector returns the selectors with one more as the latest. It keeps one more than maxSelectors, which shows that
// there were too many.
func withSelector(kept []map[string]string, latest map[string]string) []map[string]string {
	kept = slices.DeleteFunc(slices.Clone(kept), func(m map[string]string) bool { return maps.Equal(m, latest) })
	if len(kept) > maxSelectors {
		kept = kept[1:]
	}
	return append(kept, latest)
}

// selectorsOf returns the selectors by which a policy selects the pods of a Service. ok is false if they are not known:
// the policy then selects every pod of its namespace.
func (v *view) selectorsOf(ap *weftv1.AuthorizationPolicy, service string) (selectors []map[string]string, ok bool) {
	s, ok := v.selections.Get(v.Snapshot, kube.Key(ap))
	if !ok {
		return nil, false
	}
	selectors = s.services[service]
	return selectors, len(selectors) > 0 && len(selectors) <= maxSelectors
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
		return fmt.Sprintf("Service %s has had more than %d selectors since the policy changed", name, maxSelectors) + everyPod, ""
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
