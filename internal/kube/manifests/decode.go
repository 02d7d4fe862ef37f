package manifests

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/admission"
	"github.com/weft-mesh/weft/internal/kube/crds"
	"github.com/weft-mesh/weft/internal/model"
)

// decoder turns chunks into objects. It is safe for concurrent use.
type decoder struct {
	objs    *kube.Objects
	scheme  *runtime.Scheme
	current map[schema.GroupKind]schema.GroupVersionKind
	schemas schemas
	// created returns the creation time of an object that was read; nil leaves all without one.
	created func(metav1.Object, schema.GroupKind) metav1.Time
	// newer is set where an API server took the objects that may be newer than this program: unknown fields of Kubernetes' own kinds
	// are ignored.
	newer bool
}

func newDecoder(objs *kube.Objects) *decoder {
	d := &decoder{objs: objs, scheme: kube.Scheme(), current: map[schema.GroupKind]schema.GroupVersionKind{}}
	for _, k := range objs.Kinds() {
		d.current[k.GVK.GroupKind()] = k.GVK
	}
	return d
}

// chunk reads a document, or the items of a List. Every fault is in a document; it never fails as a whole.
func (d *decoder) chunk(c chunk) []*document {
	text, v, faults := c.value()
	if len(faults) > 0 {
		ref := guess(c.text)
		if namespaced, _ := d.objs.Namespaced(schema.GroupKind{Group: ref.Group, Kind: ref.Kind}); namespaced && ref.Namespace == "" {
			ref.Namespace = metav1.NamespaceDefault
		}
		return []*document{{line: faults[0].line, ref: ref, faults: faults, standIn: d.standIn(ref, nil, c.text)}}
	}
	if v == nil {
		return nil
	}
	where := &lines{text: c.text}
	m, ok := v.(map[string]any)
	if !ok {
		return []*document{bad(&document{}, syntax(where.of(""), fmt.Sprintf("the document is %s, not an object", jsonKind(v))))}
	}
	if items, ok := listItems(m); ok {
		return d.list(m, items, where)
	}
	return []*document{d.object(m, text, where, "")}
}

// listItems recognises kind List and HTTPRouteList, PodList and so on.
func listItems(m map[string]any) ([]any, bool) {
	kind, _ := m["kind"].(string)
	items, ok := m["items"].([]any)
	return items, ok && strings.HasSuffix(kind, "List")
}

func (d *decoder) list(m map[string]any, items []any, where *lines) []*document {
	kind, _ := m["kind"].(string)
	out := make([]*document, 0, len(items))
	for i, item := range items {
		path := "items[" + strconv.Itoa(i) + "]"
		im, ok := item.(map[string]any)
		if !ok {
			out = append(out, bad(&document{}, syntax(where.of(path), path+" is "+jsonKind(item)+", not an object")))
			continue
		}
		if im["kind"] == nil && im["apiVersion"] == nil && kind != "List" {
			im["kind"], im["apiVersion"] = strings.TrimSuffix(kind, "List"), m["apiVersion"]
		}
		if nested, _ := im["kind"].(string); strings.HasSuffix(nested, "List") {
			out = append(out, bad(&document{}, syntax(where.of(path), path+" is a "+nested+"; lists do not nest")))
			continue
		}
		text, err := json.Marshal(im)
		if err != nil {
			out = append(out, bad(&document{}, syntax(where.of(path), err.Error())))
			continue
		}
		out = append(out, d.object(im, text, where, path+"."))
	}
	return out
}

func jsonKind(v any) string {
	switch v.(type) {
	case []any:
		return "a list"
	case nil:
		return "empty"
	}
	return "a scalar"
}

func bad(doc *document, f ...fault) *document {
	doc.faults = append(doc.faults, f...)
	if len(doc.faults) > maxFaults {
		doc.faults = append(doc.faults[:maxFaults], newFault(doc.line, fmt.Sprintf("and %d more", len(doc.faults)-maxFaults)))
	}
	doc.obj = nil
	return doc
}

// object reads one object: m is its value and text the same as JSON. prefix is the path of the object in its chunk.
func (d *decoder) object(m map[string]any, text []byte, where *lines, prefix string) *document {
	doc := d.checked(m, text, where, prefix)
	if doc.obj == nil {
		doc.standIn = d.standIn(doc.ref, m, text)
	}
	return doc
}

func (d *decoder) checked(m map[string]any, text []byte, where *lines, prefix string) *document {
	doc := &document{line: where.firstLine(prefix)}
	at := func(path, reason string) fault { return newFault(where.of(prefix+path), reason) }
	gvk, reason := d.identify(doc, m)
	if reason != "" {
		return bad(doc, at("kind", reason))
	}
	if doc.ref.Name == "" {
		f := at("metadata", "metadata.name is missing or not a text")
		f.syntax = true
		doc.ref = model.ObjectRef{}
		return bad(doc, f)
	}
	obj, errs, strict := d.typed(gvk, m, text)
	for _, e := range errs {
		doc.faults = append(doc.faults, at(e.Field, fieldReason(e)))
	}
	for _, e := range strict {
		path, reason := admission.ExplainStrict(e)
		if strings.HasPrefix(reason, "unknown field") {
			reason += fieldHint(obj, path)
		}
		doc.faults = append(doc.faults, at(path, reason))
	}
	if len(doc.faults) > 0 {
		return bad(doc)
	}
	meta := obj.(metav1.Object)
	d.cleanMetadata(meta, doc)
	admission.Complete(obj)
	for _, e := range append(validateMetadata(gvk.GroupKind(), meta), admission.Check(obj)...) {
		doc.faults = append(doc.faults, at(e.Field, fieldReason(e)))
	}
	if len(doc.faults) > 0 {
		return bad(doc)
	}
	doc.obj, doc.spec = obj, specHash(m)
	return doc
}

// identify reads apiVersion, kind, namespace and name into the document.
func (d *decoder) identify(doc *document, m map[string]any) (gvk schema.GroupVersionKind, reason string) {
	apiVersion, _ := m["apiVersion"].(string)
	kind, _ := m["kind"].(string)
	meta, _ := m["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	namespace, _ := meta["namespace"].(string)
	gv, err := schema.ParseGroupVersion(apiVersion)
	doc.ref = model.ObjectRef{Group: gv.Group, Kind: kind, Namespace: namespace, Name: name}
	if err != nil || apiVersion == "" || kind == "" {
		doc.ref = model.ObjectRef{}
		return gvk, "apiVersion and kind must be there, as in \"apiVersion: v1\", \"kind: Service\""
	}
	gk := schema.GroupKind{Group: gv.Group, Kind: kind}
	namespaced, known := d.objs.Namespaced(gk)
	current := d.current[gk]
	switch {
	case !known:
		return gvk, fmt.Sprintf("kind %s of %s is not one that the mesh reads", kind, apiVersion)
	case !namespaced:
		doc.ref.Namespace = ""
	case namespace == "":
		doc.ref.Namespace = metav1.NamespaceDefault
	}
	doc.gk, doc.key = gk, objectKey(gk.String()+"/"+model.Key(doc.ref.Namespace, doc.ref.Name))
	if gv.Version != current.Version && (!slices.Contains(crds.Versions(kind), gv.Version) || !d.schemas.serves(gk, gv.Version)) {
		return gvk, fmt.Sprintf("%s has no version %s that the mesh reads; write %s", kind, gv.Version, current.GroupVersion())
	}
	return current, ""
}

// typed makes the Go object. Kinds that have a schema are completed and checked by it, as in an API server; the
// others have Go types only.
func (d *decoder) typed(gvk schema.GroupVersionKind, m map[string]any, text []byte) (obj runtime.Object, errs field.ErrorList, strict []error) {
	obj, err := d.scheme.New(gvk)
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}, nil
	}
	s, err := d.schemas.get(gvk.GroupKind())
	if err != nil {
		return nil, field.ErrorList{field.InternalError(nil, err)}, nil
	}
	if s == nil {
		strict, err := kjson.UnmarshalStrict(text, obj)
		if d.newer {
			strict = nil
		}
		if err != nil {
			strict = append(strict, err)
		}
		return obj, nil, strict
	}
	delete(m, "status")
	m["apiVersion"] = gvk.GroupVersion().String()
	errs = s.completeAndValidate(m)
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(m, obj, true)
	if se, ok := runtime.AsStrictDecodingError(err); ok {
		return obj, errs, se.Errors()
	}
	if len(errs) == 0 && err != nil {
		return obj, nil, []error{err}
	}
	if len(errs) == 0 && !keepsRules(obj) {
		errs = s.checkRules(m)
	}
	return obj, errs, nil
}

// cleanMetadata drops what an API server would set itself. Without creation times, precedence falls to names, so it
// is the same on every node and after every start.
func (d *decoder) cleanMetadata(o metav1.Object, doc *document) {
	o.SetNamespace(doc.ref.Namespace)
	o.SetManagedFields(nil)
	var created metav1.Time
	if d.created != nil {
		created = d.created(o, doc.gk)
	}
	o.SetCreationTimestamp(created)
	o.SetDeletionTimestamp(nil)
	o.SetUID("")
	o.SetResourceVersion("")
	o.SetGeneration(0)
	o.SetSelfLink("")
}

// validateMetadata checks what an API server would.
func validateMetadata(gk schema.GroupKind, o metav1.Object) field.ErrorList {
	meta := field.NewPath("metadata")
	nameOK := apivalidation.NameIsDNSSubdomain
	if gk.Group == corev1.GroupName && (gk.Kind == "Service" || gk.Kind == "Namespace") {
		nameOK = apivalidation.NameIsDNSLabel
	}
	var errs field.ErrorList
	for _, msg := range nameOK(o.GetName(), false) {
		errs = append(errs, field.Invalid(meta.Child("name"), o.GetName(), msg))
	}
	if ns := o.GetNamespace(); ns != "" {
		for _, msg := range apivalidation.ValidateNamespaceName(ns, false) {
			errs = append(errs, field.Invalid(meta.Child("namespace"), ns, msg))
		}
	}
	errs = append(errs, metav1validation.ValidateLabels(o.GetLabels(), meta.Child("labels"))...)
	return append(errs, apivalidation.ValidateAnnotations(o.GetAnnotations(), meta.Child("annotations"))...)
}

// specHash is that of all but metadata and status: an API server counts generations by it.
func specHash(m map[string]any) uint64 {
	rest := make(map[string]any, len(m))
	for k, v := range m {
		if k != "metadata" && k != "status" {
			rest[k] = v
		}
	}
	text, err := json.Marshal(rest) // sorts keys
	if err != nil {
		return 0
	}
	return maphash.Bytes(hashSeed, text)
}

func fieldReason(e *field.Error) string {
	if s, ok := e.BadValue.(string); ok && len(s) > 128 {
		c := *e
		c.BadValue = s[:64] + "…"
		e = &c
	}
	return e.Error()
}

// firstLine is the line of an object's first field.
func (l *lines) firstLine(prefix string) int {
	if prefix == "" {
		for i, line := range strings.Split(string(l.text), "\n") {
			if t := strings.TrimSpace(strings.TrimPrefix(line, "---")); t != "" && t[0] != '#' {
				return i
			}
		}
		return 0
	}
	return l.of(strings.TrimSuffix(prefix, "."))
}
