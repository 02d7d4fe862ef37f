package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/model"
)

// labelsRead are the labels that the mesh reads, by the kind of object that it reads them of.
var labelsRead = map[string][]string{
	"Namespace": {kube.LabelMTLS, kube.LabelMTLSEnforce, kube.LabelL7, kube.LabelTraceSampling},
	"Pod":       {kube.LabelMTLS},
	"Service":   {kube.LabelL7},
}

// labels finds labels that mean nothing: most are misspelt, and what they were to turn on is off.
func (c *checker) labels() []Remark {
	var out []Remark
	for ns := range c.objs.Namespaces.All(c.snap) {
		ref := model.ObjectRef{Kind: "Namespace", Name: ns.Name}
		out = append(out, c.labelsOf(ref, ns)...)
		if _, problem := c.objs.TraceSampling(c.snap, ns.Name); problem != "" {
			out = append(out, warn(CodeLabel, ref, problem))
		}
	}
	for pod := range c.objs.Pods.All(c.snap) {
		ref := model.ObjectRef{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name}
		out = append(out, c.labelsOf(ref, pod)...)
		if mode := c.objs.Mode(c.snap, pod).Mode; pod.Spec.HostNetwork && pod.Labels[kube.LabelMTLS] != "" && mode != model.MTLSDisabled {
			out = append(out, warn(CodeLabel, ref, fmt.Sprintf("label %s: %s means nothing, for the pod is in the host's network and takes no part in the mesh",
				kube.LabelMTLS, mode)))
		}
	}
	for gw := range c.objs.Gateways.All(c.snap) {
		if _, problem := kube.TrustedHops(gw); problem != "" {
			out = append(out, warn(CodeLabel, model.ObjectRef{Group: gw.GroupVersionKind().Group, Kind: "Gateway", Namespace: gw.Namespace, Name: gw.Name}, problem))
		}
	}
	for _, w := range c.files.Workloads {
		out = append(out, workloadLabels(w)...)
	}
	for svc := range c.objs.Services.All(c.snap) {
		out = append(out, c.labelsOf(model.ObjectRef{Kind: "Service", Namespace: svc.Namespace, Name: svc.Name}, svc)...)
	}
	return out
}

// workloadLabels looks at the labels that a workload gives its pods, and at its own, which the mesh does not read.
func workloadLabels(w manifests.Workload) []Remark {
	var out []Remark
	add := func(message string) {
		out = append(out, Remark{Code: CodeLabel, At: w.At, Object: w.Ref, Message: message})
	}
	for _, key := range slices.Sorted(maps.Keys(w.Own)) {
		if _, on := w.Labels[key]; meshLike(key) && !on {
			add(fmt.Sprintf("the mesh does not read label %s of a %s, but of its pods: their labels are in the pod template", key, w.Ref.Kind))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(w.Labels)) {
		if meshLike(key) && !slices.Contains(labelsRead["Pod"], key) {
			add(fmt.Sprintf("in the pod template: the mesh does not read label %s of a Pod; it reads %s there%s", key, strings.Join(labelsRead["Pod"], ", "), elsewhere(key)))
		}
	}
	if v, ok := w.Labels[kube.LabelMTLS]; ok {
		if _, known := model.ParseMTLSMode(v); !known {
			add(fmt.Sprintf("in the pod template: label %s: %.64q is none of strict, permissive, disabled: it is taken as strict", kube.LabelMTLS, v))
		}
	}
	return out
}

func (c *checker) labelsOf(ref model.ObjectRef, o metav1.Object) []Remark {
	if _, read := c.files.Where[ref]; !read {
		return nil
	}
	var out []Remark
	known := labelsRead[ref.Kind]
	for _, key := range slices.Sorted(maps.Keys(o.GetLabels())) {
		if meshLike(key) && !slices.Contains(known, key) {
			out = append(out, warn(CodeLabel, ref, fmt.Sprintf("the mesh does not read label %s of a %s; it reads %s there%s",
				key, ref.Kind, strings.Join(known, ", "), elsewhere(key))))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(o.GetAnnotations())) {
		if slices.Contains(labelsRead["Namespace"], key) {
			out = append(out, warn(CodeLabel, ref, fmt.Sprintf("the mesh reads %s as a label, and not as an annotation", key)))
		}
	}
	return out
}

// meshLike reports whether a label was most likely meant for the mesh. Those of weft connectivity test are its own.
func meshLike(key string) bool {
	prefix, name, _ := strings.Cut(strings.ToLower(key), "/")
	return (prefix == "weft.io" || prefix == "weft" || strings.HasSuffix(prefix, ".weft.io")) && name != "connectivity-test"
}

// elsewhere says of which kinds the mesh reads a label.
func elsewhere(key string) string {
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(labelsRead)) {
		if slices.Contains(labelsRead[kind], key) {
			kinds = append(kinds, kind+"s")
		}
	}
	if len(kinds) == 0 {
		return ""
	}
	return fmt.Sprintf(", and %s of %s", key, strings.Join(kinds, " and "))
}
