package admission

import (
	"bytes"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
)

// ClosedPolicy allows nothing to the pods that the policy selects, or to all of its namespace if that cannot be read.
func ClosedPolicy(meta metav1.ObjectMeta, m map[string]any) (runtime.Object, string) {
	p := &weftv1.AuthorizationPolicy{ObjectMeta: meta}
	p.Spec.Action = weftv1.ActionAllow
	spec, _ := m["spec"].(map[string]any)
	targets, err := json.Marshal(spec["targetRefs"])
	dec := json.NewDecoder(bytes.NewReader(targets))
	dec.DisallowUnknownFields()
	if err != nil || dec.Decode(&p.Spec.TargetRefs) != nil || len(checkPolicy(p, field.NewPath("spec"))) > 0 {
		p.Spec.TargetRefs = nil
	}
	if len(p.Spec.TargetRefs) == 0 {
		return p, "until it can be read, nothing may speak to the pods of namespace " + meta.Namespace
	}
	return p, "until it can be read, nothing may speak to the pods that it selects"
}
