package kube

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// MTLS is the mTLS mode of a pod or a namespace, as labels say it.
type MTLS struct {
	Mode model.MTLSMode
	// Known is false while the mode depends on a Namespace that has not been read; Mode is then Disabled.
	Known bool
	// Problem says which label is not followed as it is written; "" if all are. For one that is not understood, Mode is
	// strict: whoever wrote the label wanted something, and strict opens nothing.
	Problem string
}

// Mode returns the mTLS mode of a pod: that of its own label, or of its namespace's. A namespace that enforces its mode
// has no pods with a weaker one. Pods of the mesh's own namespace have none: a component that signs certificates cannot
// wait for one.
func (o *Objects) Mode(s *state.Snapshot, p *corev1.Pod) MTLS {
	if p.Namespace == Namespace {
		return MTLS{Known: true}
	}
	own, labelled := labelledMode(p, "the pod")
	if own.Mode == model.MTLSStrict {
		return own // whatever its namespace says
	}
	ns, ok := o.Namespaces.Get(s, model.Key("", p.Namespace))
	if !ok {
		own.Known = false
		return own
	}
	least := NamespaceMode(ns)
	switch {
	case !labelled:
		return least
	case EnforcesMode(ns) && own.Mode < least.Mode:
		least.Problem = fmt.Sprintf("label %s: %s of the pod is weaker than %s, which namespace %s enforces by label %s; taken as %s",
			LabelMTLS, own.Mode, least.Mode, ns.Name, LabelMTLSEnforce, least.Mode)
		return least
	}
	return own
}

// EnforcesMode reports whether a namespace forbids its pods a weaker mode than its own. A value of the label that is not
// understood forbids it too.
func EnforcesMode(ns *corev1.Namespace) bool {
	v, ok := ns.Labels[LabelMTLSEnforce]
	return ok && v != Disabled
}

// NamespaceMode returns the mTLS mode of a namespace's pods that have no label of their own.
func NamespaceMode(ns *corev1.Namespace) MTLS {
	if ns.Name == Namespace {
		return MTLS{Known: true}
	}
	if m, ok := labelledMode(ns, "namespace "+ns.Name); ok {
		return m
	}
	return MTLS{Known: true}
}

// PodLabelledStrict reports whether a pod is strict by its own label.
func PodLabelledStrict(p *corev1.Pod) bool {
	m, ok := labelledMode(p, "")
	return ok && p.Namespace != Namespace && m.Mode == model.MTLSStrict
}

// labelledMode reads the label of an object; ok is false if it has none.
func labelledMode(o metav1.Object, name string) (m MTLS, ok bool) {
	value, ok := o.GetLabels()[LabelMTLS]
	if !ok {
		return MTLS{}, false
	}
	mode, understood := model.ParseMTLSMode(value)
	if understood {
		return MTLS{Mode: mode, Known: true}, true
	}
	return MTLS{Mode: model.MTLSStrict, Known: true, Problem: fmt.Sprintf(
		"label %s: %.64q of %s is none of strict, permissive, disabled; taken as strict", LabelMTLS, value, name)}, true
}
