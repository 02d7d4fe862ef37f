package cluster

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/admission"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
)

// strict reports whether the objects of a kind are read field by field. The mesh's own kinds decide who is let in, and
// their CRDs may be newer than this program: a field that it does not know must not be dropped without a word.
func (s *source) strict() bool { return s.gk().Group == weftv1.Group }

// strictClient lists and watches objects with all fields that the API server sends.
type strictClient struct{ dynamic.ResourceInterface }

func (c *clients) strict(gvk schema.GroupVersionKind) (strictClient, error) {
	d, err := dynamic.NewForConfig(c.cfg)
	if err != nil {
		return strictClient{}, fmt.Errorf("client of %s: %w", gvk.GroupVersion(), err)
	}
	return strictClient{d.Resource(gvk.GroupVersion().WithResource(kube.Resource(gvk)))}, nil
}

func (c strictClient) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	l, err := c.List(ctx, o)
	if err != nil {
		return nil, err // and not a nil of a type, which is not nil as an interface
	}
	return l, nil
}

func (c strictClient) watch(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
	return c.Watch(ctx, o)
}

// maxUnknown bounds the unknown fields of an object that are named.
const maxUnknown = 4

// typed makes the Go object of one that has all fields, and returns which of them it does not know or cannot read. The
// object then has its metadata and whatever else was read. Metadata and status decide about nobody, so an API server or
// a controller may be newer there.
func (s *store) typed(u *unstructured.Unstructured) (obj runtime.Object, unknown []string, err error) {
	if obj, err = s.c.clients.scheme.New(s.version()); err != nil {
		return nil, nil, err
	}
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, obj, true)
	strict, ok := runtime.AsStrictDecodingError(err)
	switch {
	case err == nil:
		return obj, nil, nil
	case !ok:
		o := obj.(metav1.Object)
		o.SetNamespace(u.GetNamespace())
		o.SetName(u.GetName())
		return obj, []string{fmt.Sprintf("a field is not of its type: %.200s", err)}, nil
	}
	for _, e := range strict.Errors() {
		path, reason := admission.ExplainStrict(e)
		if !strings.HasPrefix(path, "metadata.") && !strings.HasPrefix(path, "status.") && len(unknown) < maxUnknown {
			unknown = append(unknown, fmt.Sprintf("%.200s", reason))
		}
	}
	return obj, unknown, nil
}

// unknownFields returns what stands for an object of the mesh's own that has fields which this program does not know,
// and what that means. A policy allows nothing, whatever it allowed before, so that all nodes do the same.
func (s *store) unknownFields(obj runtime.Object, u *unstructured.Unstructured, before metav1.Object, unknown []string) (runtime.Object, string) {
	why := strings.Join(unknown, ", ") + ": not known to this version of the mesh; "
	var note string
	switch o := obj.(type) {
	case *weftv1.AuthorizationPolicy:
		obj, note = admission.ClosedPolicy(o.ObjectMeta, u.Object)
	case *weftv1.AddressPool:
		o.Spec, note = weftv1.AddressPoolSpec{}, "no address of the pool is given"
		if before, ok := before.(*weftv1.AddressPool); ok {
			o.Spec, note = before.Spec, lastStays
		}
	}
	annotate(obj.(metav1.Object), kube.AnnotationStandIn, why+note)
	return obj, why + note
}
