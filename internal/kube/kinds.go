package kube

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/state"
)

// Kind ties a group, version and kind to its table.
type Kind struct {
	GVK        schema.GroupVersionKind
	Namespaced bool
	Table      state.AnyTable
	// Remove, Get, All and Len work on the table. Keys are those of Key.
	Remove func(*state.Write, string)
	Get    func(*state.Snapshot, string) (metav1.Object, bool)
	All    func(*state.Snapshot) iter.Seq[metav1.Object]
	Len    func(*state.Snapshot) int

	holds func(runtime.Object) bool
	put   func(*state.Write, runtime.Object)
}

func kindOf[T metav1.Object](gvk schema.GroupVersionKind, namespaced bool, t *state.Table[T]) Kind {
	return Kind{
		GVK: gvk, Namespaced: namespaced, Table: t,
		holds: func(o runtime.Object) bool {
			_, ok := o.(T)
			return ok
		},
		put:    func(w *state.Write, o runtime.Object) { t.Put(w, o.(T)) },
		Remove: t.Delete,
		Len:    t.Len,
		Get: func(s *state.Snapshot, key string) (metav1.Object, bool) {
			v, ok := t.Get(s, key)
			if !ok {
				return nil, false // and not a nil of T, which is not nil as an interface
			}
			return v, true
		},
		All: func(s *state.Snapshot) iter.Seq[metav1.Object] {
			return func(yield func(metav1.Object) bool) {
				for v := range t.All(s) {
					if !yield(v) {
						return
					}
				}
			}
		},
	}
}

func (o *Objects) allKinds() []Kind {
	core := corev1.SchemeGroupVersion.WithKind
	gw := schema.GroupVersion{Group: gwv1.GroupName, Version: "v1"}.WithKind
	gwx := schema.GroupVersion{Group: gwxv1.GroupName, Version: gwxv1.GroupVersion.Version}.WithKind
	weft := weftv1.GroupVersion.WithKind
	return []Kind{
		kindOf(core("Namespace"), false, o.Namespaces),
		kindOf(core("Node"), false, o.Nodes),
		kindOf(core("ServiceAccount"), true, o.ServiceAccounts),
		kindOf(core("Pod"), true, o.Pods),
		kindOf(core("Service"), true, o.Services),
		kindOf(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), true, o.EndpointSlices),
		kindOf(core("Secret"), true, o.Secrets),
		kindOf(core("ConfigMap"), true, o.ConfigMaps),
		kindOf(gw("Gateway"), true, o.Gateways),
		kindOf(gw("ListenerSet"), true, o.ListenerSets),
		kindOf(gw("GatewayClass"), false, o.GatewayClasses),
		kindOf(gwx("XMesh"), false, o.Meshes),
		kindOf(gw("HTTPRoute"), true, o.HTTPRoutes),
		kindOf(gw("GRPCRoute"), true, o.GRPCRoutes),
		kindOf(gw("TLSRoute"), true, o.TLSRoutes),
		kindOf(gw("TCPRoute"), true, o.TCPRoutes),
		kindOf(gw("UDPRoute"), true, o.UDPRoutes),
		kindOf(gw("ReferenceGrant"), true, o.ReferenceGrants),
		kindOf(gw("BackendTLSPolicy"), true, o.BackendTLSPolicies),
		kindOf(gwx("XTelemetryPolicy"), true, o.TelemetryPolicies),
		kindOf(weft("AuthorizationPolicy"), true, o.AuthorizationPolicies),
		kindOf(weft("AddressPool"), false, o.AddressPools),
	}
}

// Scheme knows all kinds that have a table. Objects of an older version are read as if they were of the kind's own (crds.Versions).
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, gwv1.Install, gwxv1.Install, weftv1.AddToScheme,
	} {
		if err := add(s); err != nil {
			panic(err) // two types under one name: a mistake in the program
		}
	}
	return s
}

// Kinds returns every kind that has a table.
func (o *Objects) Kinds() []Kind { return slices.Clone(o.kinds) }

// Count returns the number of objects in all tables.
func (o *Objects) Count(s *state.Snapshot) int {
	n := 0
	for _, k := range o.kinds {
		n += k.Len(s)
	}
	return n
}

// Namespaced reports whether objects of a kind live in a namespace, and whether there is a table for the kind at all.
func (o *Objects) Namespaced(gk schema.GroupKind) (namespaced, known bool) {
	k, ok := o.kind(gk)
	return k.Namespaced, ok
}

// Write opens a transaction on the tables of some kinds, or of all if none is named. A kind that has no table is left out.
func (o *Objects) Write(kinds ...schema.GroupKind) *state.Write {
	tables := make([]state.AnyTable, 0, len(o.kinds))
	for _, k := range o.kinds {
		if len(kinds) == 0 || slices.Contains(kinds, k.GVK.GroupKind()) {
			tables = append(tables, k.Table)
		}
	}
	return o.DB.Write(tables...)
}

// Put inserts or replaces an object in the table of its type. The object must not be changed afterwards. An object whose name or namespace
// Kubernetes would not take, or that lacks a namespace where it needs one, is refused: names become keys, identities
// and names of Envoy's resources.
func (o *Objects) Put(w *state.Write, obj runtime.Object) error {
	for _, k := range o.kinds {
		if !k.holds(obj) {
			continue
		}
		if err := validName(obj.(metav1.Object), k); err != nil {
			return err
		}
		if err := validSpec(obj); err != nil {
			return fmt.Errorf("%s %s: %w", k.GVK.Kind, Key(obj.(metav1.Object)), err)
		}
		k.put(w, obj)
		return nil
	}
	return fmt.Errorf("%T: there is no table for this type", obj)
}

func validName(obj metav1.Object, k Kind) error {
	valid := validation.NameIsDNSSubdomain
	switch k.GVK.Kind {
	case "Namespace":
		valid = validation.ValidateNamespaceName
	case "Service":
		valid = validation.NameIsDNSLabel
	}
	if errs := valid(obj.GetName(), false); len(errs) > 0 {
		return fmt.Errorf("%s: metadata.name %q: %s", k.GVK.Kind, obj.GetName(), errs[0])
	}
	if !k.Namespaced {
		if obj.GetNamespace() != "" {
			return fmt.Errorf("%s %s: metadata.namespace %q: objects of this kind have none", k.GVK.Kind, obj.GetName(), obj.GetNamespace())
		}
		return nil
	}
	if errs := validation.ValidateNamespaceName(obj.GetNamespace(), false); len(errs) > 0 {
		return fmt.Errorf("%s %s: metadata.namespace %q: %s", k.GVK.Kind, obj.GetName(), obj.GetNamespace(), errs[0])
	}
	return nil
}

// PossibleKey reports whether an object with a namespace, such as a Secret, can have a key.
func PossibleKey(key string) bool {
	namespace, name, _ := strings.Cut(key, "/")
	return len(validation.ValidateNamespaceName(namespace, false)) == 0 && len(validation.NameIsDNSSubdomain(name, false)) == 0
}

// Delete removes an object by its key; a missing one changes nothing.
func (o *Objects) Delete(w *state.Write, gk schema.GroupKind, key string) error {
	k, ok := o.kind(gk)
	if !ok {
		return fmt.Errorf("%s: there is no table for this kind", gk)
	}
	k.Remove(w, key)
	return nil
}

// Get finds an object by its kind and key.
func (o *Objects) Get(s *state.Snapshot, gk schema.GroupKind, key string) (metav1.Object, bool) {
	k, ok := o.kind(gk)
	if !ok {
		return nil, false
	}
	return k.Get(s, key)
}

// All lists the objects of a kind in the order of their keys; nothing if there is no table for the kind.
func (o *Objects) All(s *state.Snapshot, gk schema.GroupKind) iter.Seq[metav1.Object] {
	k, ok := o.kind(gk)
	if !ok {
		return func(func(metav1.Object) bool) {}
	}
	return k.All(s)
}

// TableKind returns the kind of the objects that a table holds.
func (o *Objects) TableKind(table state.TableID) (schema.GroupKind, bool) {
	for _, k := range o.kinds {
		if k.Table.ID() == table {
			return k.GVK.GroupKind(), true
		}
	}
	return schema.GroupKind{}, false
}

func (o *Objects) kind(gk schema.GroupKind) (Kind, bool) {
	for _, k := range o.kinds {
		if k.GVK.GroupKind() == gk {
			return k, true
		}
	}
	return Kind{}, false
}

// validSpec refuses what would leave something unprotected if it were taken in part.
func validSpec(obj runtime.Object) error {
	switch o := obj.(type) {
	case *corev1.Pod:
		if sa := o.Spec.ServiceAccountName; sa != "" && len(validation.ValidateServiceAccountName(sa, false)) > 0 {
			return fmt.Errorf("spec.serviceAccountName %q is not a name of a service account", sa)
		}
	case *weftv1.AuthorizationPolicy:
		for i, t := range o.Spec.TargetRefs {
			if _, err := metav1.LabelSelectorAsSelector(t.Selector); err != nil {
				return fmt.Errorf("spec.targetRefs[%d].selector: %w", i, err)
			}
		}
	}
	return nil
}

// Resource is the name of a kind in paths of an API server.
func Resource(gvk schema.GroupVersionKind) string {
	switch gvk.Kind { // the rules of English that the guess follows would have gatewaies and xmeshs
	case "Gateway":
		return "gateways"
	case "XMesh":
		return "xmeshes"
	}
	r, _ := meta.UnsafeGuessKindToResource(gvk)
	return r.Resource
}
