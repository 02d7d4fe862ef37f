package manifests

import (
	"bytes"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/admission"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// standIn returns what is in force for a bad document while there is no good version of it, as after a start. Most
// objects are just missing then. For those that close something it would open it: a policy that is not there allows
// everything, a namespace without its label is in the clear. These stand in, closed. m is nil where not even the syntax
// can be read; ref is then a guess.
func (d *decoder) standIn(ref model.ObjectRef, m map[string]any, text []byte) *document {
	gk := schema.GroupKind{Group: ref.Group, Kind: ref.Kind}
	meta := metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name}
	var obj runtime.Object
	var note string
	switch {
	case ref.Name == "":
	case gk == weftv1.GroupVersion.WithKind("AuthorizationPolicy").GroupKind():
		obj, note = admission.ClosedPolicy(meta, m)
	case gk == schema.GroupKind{Group: gwv1.GroupName, Kind: "BackendTLSPolicy"}:
		obj, note = closedTLSPolicy(meta, m)
	case gk == schema.GroupKind{Kind: "Namespace"}:
		obj, note = closedNamespace(meta, m, text)
	case gk == schema.GroupKind{Kind: "Pod"}:
		obj, note = closedPod(ref, m, text)
	}
	if obj == nil {
		return nil
	}
	o := obj.(metav1.Object)
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[kube.AnnotationStandIn] = note
	o.SetAnnotations(annotations)
	if len(validateMetadata(gk, o)) > 0 {
		return nil
	}
	admission.Complete(obj)
	key := objectKey(gk.String() + "/" + model.Key(ref.Namespace, ref.Name))
	return &document{ref: ref, gk: gk, key: key, obj: obj, note: note}
}

// standsIn reports whether the document stands in for a bad one.
func (d *document) standsIn() bool { return d.note != "" }

// closedTLSPolicy keeps the targets, to which nothing is sent in the clear. What its targets are must be readable.
func closedTLSPolicy(meta metav1.ObjectMeta, m map[string]any) (runtime.Object, string) {
	p := &gwv1.BackendTLSPolicy{ObjectMeta: meta}
	spec, _ := m["spec"].(map[string]any)
	targets, err := json.Marshal(spec["targetRefs"])
	if err != nil || json.Unmarshal(targets, &p.Spec.TargetRefs) != nil || len(p.Spec.TargetRefs) == 0 {
		return nil, ""
	}
	return p, "until it can be read, Gateways and routes send nothing to its targets"
}

// closedNamespace keeps the mode that can be read. One that is there but cannot is taken as strict.
func closedNamespace(meta metav1.ObjectMeta, m map[string]any, text []byte) (runtime.Object, string) {
	md, _ := m["metadata"].(map[string]any)
	labels, _ := md["labels"].(map[string]any)
	mode, _ := labels[kube.LabelMTLS].(string)
	if _, ok := model.ParseMTLSMode(mode); !ok || mode == "" {
		if mode == "" && !bytes.Contains(text, []byte(kube.LabelMTLS)) {
			return nil, ""
		}
		mode = model.MTLSStrict.String()
	}
	meta.Labels = map[string]string{kube.LabelMTLS: mode}
	note := "until it can be read, it has the label " + kube.LabelMTLS + ": " + mode
	if labels[kube.LabelMTLSEnforce] != kube.Disabled && bytes.Contains(text, []byte(kube.LabelMTLSEnforce)) {
		meta.Labels[kube.LabelMTLSEnforce] = kube.Enabled
		return &corev1.Namespace{ObjectMeta: meta}, note + ", enforced, and no other"
	}
	return &corev1.Namespace{ObjectMeta: meta}, note + " and no other"
}
