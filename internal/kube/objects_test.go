package kube

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/state"
)

func TestEveryKindHasATypeAndATable(t *testing.T) {
	scheme := Scheme()
	objs := NewObjects(state.NewDB())
	for _, k := range objs.Kinds() {
		gvk := k.GVK
		o, err := scheme.New(gvk)
		if err != nil {
			t.Errorf("%s: %v", gvk, err)
			continue
		}
		m := o.(metav1.Object)
		m.SetName("a")
		namespaced, known := objs.Namespaced(gvk.GroupKind())
		if !known {
			t.Errorf("%s is not known", gvk)
		}
		if namespaced {
			m.SetNamespace("ns")
		}
		w := objs.Write()
		if err := objs.Put(w, o); err != nil {
			t.Errorf("%s: %v", gvk, err)
		}
		w.Commit()
		if got, ok := objs.Get(objs.DB.Snapshot(), gvk.GroupKind(), Key(m)); !ok || got != m {
			t.Errorf("%s: got %v, %v", gvk, got, ok)
		}
		w = objs.Write()
		if err := objs.Delete(w, gvk.GroupKind(), Key(m)); err != nil {
			t.Errorf("%s: %v", gvk, err)
		}
		w.Commit()
		if _, ok := objs.Get(objs.DB.Snapshot(), gvk.GroupKind(), Key(m)); ok {
			t.Errorf("%s is still there after Delete", gvk)
		}
	}
	w := objs.Write()
	defer w.Abort()
	if err := objs.Put(w, &corev1.PersistentVolume{}); err == nil {
		t.Error("a PersistentVolume was put into a table")
	}
	if err := objs.Delete(w, schema.GroupKind{Kind: "PersistentVolume"}, "/a"); err == nil {
		t.Error("a PersistentVolume was deleted from a table")
	}
}

func TestIndexes(t *testing.T) {
	objs := NewObjects(state.NewDB())
	meta := metav1.ObjectMeta{Namespace: "ns", Name: "a", Labels: map[string]string{"app": "web"}}
	w := objs.Write()
	for _, o := range []runtime.Object{
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "a", Labels: map[string]string{"app": "web"},
			Annotations: map[string]string{AnnotationIP: "fd00::1, 10.0.0.1,nonsense"},
		}, Status: corev1.PodStatus{PodIP: "10.9.9.9"}},
		&gwv1.HTTPRoute{ObjectMeta: meta, Spec: gwv1.HTTPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{
				{Name: "gw"},
				{Name: "svc", Namespace: new(gwv1.Namespace("other")), Kind: new(gwv1.Kind("Service")), Group: new(gwv1.Group(""))},
				{Name: "x", Kind: new(gwv1.Kind("Service"))},
			}},
			Rules: []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{
				BackendObjectReference: gwv1.BackendObjectReference{Name: "back"},
			}}}}},
		}},
	} {
		if err := objs.Put(w, o); err != nil {
			t.Fatal(err)
		}
	}
	w.Commit()
	s := objs.DB.Snapshot()
	for value, want := range map[string]int{"10.0.0.1": 1, "fd00::1": 1, "10.9.9.9": 0, "nonsense": 0} {
		if n := len(slices.Collect(objs.Pods.By(s, ByAddress, value))); n != want {
			t.Errorf("%d pods with address %s, want %d", n, value, want)
		}
	}
	if n := len(slices.Collect(objs.Pods.By(s, ByLabel, LabelKey("ns", "app", "web")))); n != 1 {
		t.Errorf("%d pods with the label, want 1", n)
	}
	for value, want := range map[string]int{
		ParentKey("Gateway", "ns", "gw"): 1, ParentKey("Service", "other", "svc"): 1, ParentKey("Service", "ns", "x"): 0,
	} {
		if n := len(slices.Collect(objs.HTTPRoutes.By(s, ByParent, value))); n != want {
			t.Errorf("%d routes with parent %s, want %d", n, value, want)
		}
	}
}

func TestObjectsThatAreRefused(t *testing.T) {
	objs := NewObjects(state.NewDB())
	w := objs.Write()
	defer w.Abort()
	for _, o := range []runtime.Object{
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a/b", Namespace: "ns"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "", Namespace: "ns"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n/s"}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "a.b", Namespace: "ns"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "ns"}},
		&gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "a\n"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "ns"}, Spec: corev1.PodSpec{ServiceAccountName: "a/sa/b"}},
		&weftv1.AuthorizationPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "ns"},
			Spec: weftv1.AuthorizationPolicySpec{TargetRefs: []weftv1.PolicyTarget{{Kind: "Pod", Selector: &metav1.LabelSelector{
				MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}},
			}}}},
		},
	} {
		if err := objs.Put(w, o); err == nil {
			m := o.(metav1.Object)
			t.Errorf("%T %q/%q was taken", o, m.GetNamespace(), m.GetName())
		}
	}
}
