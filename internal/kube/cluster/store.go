package cluster

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/admission"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// store is what a reflector writes to: a kind's table.
type store struct{ *source }

var _ cache.TransformingStore = (*store)(nil)

// Transformer lets the reflector drop what nobody reads while it still gathers the first list.
func (s *store) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if _, ok := obj.(*unstructured.Unstructured); ok {
			return obj, nil // take needs all fields
		}
		if o, ok := obj.(runtime.Object); ok {
			return s.c.trim(o), nil
		}
		return obj, nil
	}
}

// Add takes an object.
func (s *store) Add(obj any) error { return s.write(func(w *state.Write) { s.take(w, obj) }) }

// Update takes an object.
func (s *store) Update(obj any) error { return s.Add(obj) }

// Delete takes an object away.
func (s *store) Delete(obj any) error {
	o, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	s.forget(kube.Key(o))
	return s.write(func(w *state.Write) { s.kind.Remove(w, kube.Key(o)) })
}

// Replace takes all objects that there are, in one transaction.
func (s *store) Replace(objs []any, _ string) error {
	err := s.write(func(w *state.Write) {
		there := make(map[string]struct{}, len(objs))
		for _, obj := range objs {
			if o, err := meta.Accessor(obj); err == nil {
				there[kube.Key(o)] = struct{}{}
			}
			s.take(w, obj)
		}
		var gone []string
		for o := range s.kind.All(w.Snapshot()) {
			if _, ok := there[kube.Key(o)]; !ok {
				gone = append(gone, kube.Key(o))
			}
		}
		for _, key := range gone {
			s.forget(key)
			s.kind.Remove(w, key)
		}
		s.settle(there)
	})
	if err == nil {
		s.there.Store(true)
		s.c.setProblem(s.gk(), "", "")
		s.c.markLoaded(s.gk())
	}
	return err
}

// Resync has nothing to do: the table is all there is.
func (s *store) Resync() error { return nil }

func (s *store) write(change func(*state.Write)) error {
	w := s.c.objs.DB.Write(s.kind.Table)
	defer w.Abort()
	change(w)
	w.Commit()
	return nil
}

// settle drops the problems of objects that are not there.
func (s *store) settle(there map[string]struct{}) {
	w := s.c.objs.DB.Write(s.c.objs.Problems)
	defer w.Commit()
	for p := range s.c.objs.Problems.All(s.c.objs.DB.Snapshot()) {
		_, ok := there[model.Key(p.Object.Namespace, p.Object.Name)]
		if !ok && p.Object.Group == s.gk().Group && p.Object.Kind == s.gk().Kind && p.Object.Name != "" {
			s.c.objs.Problems.Delete(w, p.Key())
		}
	}
}

func (s *store) forget(key string) { s.c.setProblem(s.gk(), key, "") }

// take puts an object into the table, as far as it is understood.
func (s *store) take(w *state.Write, in any) {
	obj, ok := in.(runtime.Object)
	if !ok {
		return
	}
	var unknown []string
	all, strict := obj.(*unstructured.Unstructured)
	if strict {
		var err error
		if obj, unknown, err = s.typed(all); err != nil {
			s.c.setProblem(s.gk(), kube.Key(all), err.Error())
			return
		}
	}
	obj = s.c.trim(obj)
	admission.Complete(obj)
	key := kube.Key(obj.(metav1.Object))
	before, _ := s.kind.Get(w.Snapshot(), key)
	problem := ""
	if len(unknown) > 0 {
		obj, problem = s.unknownFields(obj, all, before, unknown)
	} else if wrong := admission.Check(obj).ToAggregate(); wrong != nil {
		var note string
		obj, note = s.closed(obj, before)
		problem = fmt.Sprintf("%v; %s", wrong, note)
	} else if !slices.Contains(WritesStatus(), s.gk()) { // that is a ReferenceGrant: others have a status
		if problem = kube.UnknownFieldsOf(obj.(metav1.Object)).Message(); problem != "" {
			problem += "; it grants nothing"
		}
	}
	if obj != nil {
		if err := s.c.objs.Put(w, obj); err != nil {
			problem = strings.TrimPrefix(problem+"; "+err.Error(), "; ")
		}
	}
	s.c.setProblem(s.gk(), key, problem)
}

// lastStays is what an object means that is not understood any more.
const lastStays = "the last version that could be read stays in force"

// standIn marks an object that holds its last version.
func standIn[T interface {
	runtime.Object
	metav1.Object
}](o T) T {
	annotate(o, kube.AnnotationStandIn, "it cannot be read; "+lastStays)
	return o
}

// closed returns what stands in the table for an object that is not understood, or nil where that is what stands there
// already, and what that means.
func (s *store) closed(obj runtime.Object, before metav1.Object) (runtime.Object, string) {
	switch o := obj.(type) {
	case *weftv1.AuthorizationPolicy:
		if before, ok := before.(*weftv1.AuthorizationPolicy); ok {
			o.Spec = before.Spec
			return standIn(o), lastStays
		}
		m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			m = nil
		}
		stand, note := admission.ClosedPolicy(o.ObjectMeta, m)
		annotate(stand.(metav1.Object), kube.AnnotationStandIn, note)
		return stand, note
	case *weftv1.AddressPool:
		// Its status says what is wrong, so it must be there.
		if before, ok := before.(*weftv1.AddressPool); ok {
			o.Spec = before.Spec
			return standIn(o), lastStays
		}
		return o, "what of it can be read is used"
	}
	note := mendLabels(obj.(metav1.Object), before)
	if len(admission.Check(obj)) == 0 {
		return obj, note
	}
	if before != nil {
		return nil, "the last version that could be read stays"
	}
	return nil, "it is left out"
}

// mendLabels puts in the place of a label of ours that is not understood what it was before, or what closes. The rest
// of the object is taken, for addresses and readiness of pods must not stand still.
func mendLabels(o, before metav1.Object) string {
	var was map[string]string
	if before != nil {
		was = before.GetLabels()
	}
	labels := o.GetLabels()
	note := "the label is left out"
	if v, ok := labels[kube.LabelMTLS]; ok {
		if _, known := model.ParseMTLSMode(v); !known {
			labels[kube.LabelMTLS] = model.MTLSStrict.String()
			if old, ok := was[kube.LabelMTLS]; ok {
				labels[kube.LabelMTLS] = old
			}
			note = "taken as " + labels[kube.LabelMTLS]
		}
	}
	if v, ok := labels[kube.LabelMTLSEnforce]; ok && v != kube.Enabled && v != kube.Disabled {
		labels[kube.LabelMTLSEnforce] = kube.Enabled
		note = kube.LabelMTLSEnforce + " is taken as " + kube.Enabled
	}
	if v, ok := labels[kube.LabelL7]; ok && v != kube.Enabled && v != kube.Disabled {
		delete(labels, kube.LabelL7)
		if old, ok := was[kube.LabelL7]; ok {
			labels[kube.LabelL7] = old
		}
	}
	o.SetLabels(labels)
	return note
}

func annotate(o metav1.Object, key, value string) {
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[key] = value
	o.SetAnnotations(annotations)
}
