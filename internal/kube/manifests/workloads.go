package manifests

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weft-mesh/weft/internal/model"
)

// Workload is a document that the mesh does not read, but whose pods it does: a Deployment and the like.
type Workload struct {
	Ref    model.ObjectRef
	At     Place
	Own    map[string]string // labels of the object itself
	Labels map[string]string // labels of its pods
}

// templates are where workloads have the metadata of their pods.
var templates = map[schema.GroupKind][]string{
	{Group: "apps", Kind: "Deployment"}:  {"spec", "template", "metadata", "labels"},
	{Group: "apps", Kind: "ReplicaSet"}:  {"spec", "template", "metadata", "labels"},
	{Group: "apps", Kind: "StatefulSet"}: {"spec", "template", "metadata", "labels"},
	{Group: "apps", Kind: "DaemonSet"}:   {"spec", "template", "metadata", "labels"},
	{Group: "batch", Kind: "Job"}:        {"spec", "template", "metadata", "labels"},
	{Group: "batch", Kind: "CronJob"}:    {"spec", "jobTemplate", "spec", "template", "metadata", "labels"},
}

// readWorkloads reads the workloads of a file, whose name is path, shown to users ("" for none), and whose text is data.
func (o *Files) readWorkloads(path, shown string, data []byte) {
	for _, c := range splitFile(path, data) {
		_, v, faults := c.value()
		m, ok := v.(map[string]any)
		if len(faults) > 0 || !ok {
			continue
		}
		where := &lines{text: c.text}
		items, isList := listItems(m)
		if !isList {
			o.addWorkload(m, placeIn(shown, c.line+where.firstLine("")))
			continue
		}
		for i, item := range items {
			if m, ok := item.(map[string]any); ok {
				o.addWorkload(m, placeIn(shown, c.line+where.firstLine(fmt.Sprintf("items[%d].", i))))
			}
		}
	}
}

func (o *Files) addWorkload(m map[string]any, at Place) {
	u := unstructured.Unstructured{Object: m}
	gk := u.GroupVersionKind().GroupKind()
	path, ok := templates[gk]
	if !ok {
		return
	}
	labels, _, err := unstructured.NestedStringMap(m, path...)
	if err != nil {
		return // an API server says so
	}
	namespace := u.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	ref := model.ObjectRef{Group: gk.Group, Kind: gk.Kind, Namespace: namespace, Name: u.GetName()}
	o.Workloads = append(o.Workloads, Workload{ref, at, u.GetLabels(), labels})
}
