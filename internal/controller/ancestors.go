package controller

import (
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/internal/model"
)

// maxAncestors is what the API's schema takes, of all controllers together.
const maxAncestors = 16

// ancestorsOf returns the entries that an object's status has; ok is false for objects whose status has no ancestors.
func ancestorsOf(obj metav1.Object) (entries []gwv1.PolicyAncestorStatus, ok bool) {
	switch p := obj.(type) {
	case *gwv1.BackendTLSPolicy:
		return p.Status.Ancestors, true
	case *gwxv1.XTelemetryPolicy:
		return p.Status.Ancestors, true
	}
	return nil, false
}

// ancestors returns the entries of a policy's status: those of other controllers as they are, and ours.
func (m merger) ancestors(have []gwv1.PolicyAncestorStatus, want *model.Status) []gwv1.PolicyAncestorStatus {
	out := make([]gwv1.PolicyAncestorStatus, 0, len(have))
	for _, h := range have {
		if string(h.ControllerName) != m.controller {
			out = append(out, h)
		}
	}
	if want == nil {
		return out
	}
	for _, w := range want.Parents {
		if len(out) == maxAncestors {
			break
		}
		a := gwv1.PolicyAncestorStatus{AncestorRef: ancestorRef(w.Parent), ControllerName: gwv1.GatewayController(m.controller)}
		var before []metav1.Condition
		for _, h := range have {
			if h.ControllerName == a.ControllerName && equality.Semantic.DeepEqual(h.AncestorRef, a.AncestorRef) {
				before = h.Conditions
			}
		}
		a.Conditions = mergeConditions(before, w.Conditions, want.Generation, m.now)
		out = append(out, a)
	}
	return inOrder(have, out, func(a, b gwv1.PolicyAncestorStatus) bool {
		return a.ControllerName == b.ControllerName && equality.Semantic.DeepEqual(a.AncestorRef, b.AncestorRef)
	})
}

func ancestorRef(o model.ObjectRef) gwv1.ParentReference {
	group, kind, namespace := gwv1.Group(o.Group), gwv1.Kind(o.Kind), gwv1.Namespace(o.Namespace)
	return gwv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: gwv1.ObjectName(o.Name)}
}
