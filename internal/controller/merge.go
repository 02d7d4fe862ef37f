package controller

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// merger computes the status that an object shall have.
type merger struct {
	// controller is our name in the status of routes, and in the classes that are ours.
	controller string
	// Features of a GatewayClass and of an XMesh, sorted; nil leaves what their status has.
	gatewayFeatures, meshFeatures []string
	now                           metav1.Time
}

// fields are those fields of a status that change, by their JSON names.
type fields map[string]any

func (f fields) set(name string, have, want any) {
	if !equality.Semantic.DeepEqual(have, want) {
		f[name] = want
	}
}

// patch returns the merge patch that makes an object's status what is wanted; nil if it is that already. want is nil for
// an object that the mesh has nothing to say of. A status that was computed for another generation is not for this
// object: the one for it comes.
func (m merger) patch(obj metav1.Object, want *model.Status) ([]byte, error) {
	if want != nil && want.Generation != obj.GetGeneration() {
		return nil, nil
	}
	changes := m.changes(obj, want)
	if len(changes) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": obj.GetResourceVersion()},
		"status":   changes,
	})
	if err != nil {
		return nil, fmt.Errorf("merge the status of %T %s/%s: %w", obj, obj.GetNamespace(), obj.GetName(), err)
	}
	return b, nil
}

func (m merger) changes(obj metav1.Object, want *model.Status) fields {
	f := fields{}
	if spec, status, ok := kube.Route(obj); ok {
		f.set("parents", status.Parents, m.parents(obj, spec.ParentRefs, status.Parents, want))
		return f
	}
	if have, ok := ancestorsOf(obj); ok {
		f.set("ancestors", have, m.ancestors(have, want))
		return f
	}
	if want == nil {
		return nil
	}
	conditions := func(have []metav1.Condition) {
		f.set("conditions", have, mergeConditions(have, want.Conditions, want.Generation, m.now))
	}
	switch o := obj.(type) {
	case *gwv1.Gateway:
		conditions(o.Status.Conditions)
		f.set("addresses", o.Status.Addresses, addresses(want.Addresses))
		f.set("listeners", o.Status.Listeners, m.listeners(o.Status.Listeners, want))
		// CRDs that know no ListenerSets drop the count, which is none then.
		if n := int32(min(want.AttachedListenerSets, math.MaxInt32)); deref(o.Status.AttachedListenerSets) != n {
			f["attachedListenerSets"] = n
		}
	case *gwv1.ListenerSet:
		conditions(o.Status.Conditions)
		f.set("listeners", o.Status.Listeners, m.entries(o.Status.Listeners, want))
	case *gwv1.GatewayClass:
		conditions(o.Status.Conditions)
		if m.gatewayFeatures != nil {
			f.set("supportedFeatures", o.Status.SupportedFeatures, supportedFeatures(m.gatewayFeatures))
		}
	case *gwxv1.XMesh:
		conditions(o.Status.Conditions)
		if m.meshFeatures != nil {
			f.set("supportedFeatures", o.Status.SupportedFeatures, supportedFeatures(m.meshFeatures))
		}
	case *weftv1.AuthorizationPolicy:
		conditions(o.Status.Conditions)
	case *weftv1.AddressPool:
		conditions(o.Status.Conditions)
	}
	return f
}

func supportedFeatures(names []string) []gwv1.SupportedFeature {
	out := make([]gwv1.SupportedFeature, len(names))
	for i, n := range names {
		out[i].Name = gwv1.FeatureName(n)
	}
	return out
}

func addresses(in []string) []gwv1.GatewayStatusAddress {
	kind := gwv1.IPAddressType
	out := make([]gwv1.GatewayStatusAddress, 0, len(in))
	for _, a := range in[:min(len(in), 16)] { // what the API's schema takes
		out = append(out, gwv1.GatewayStatusAddress{Type: &kind, Value: a})
	}
	return out
}

func (m merger) listeners(have []gwv1.ListenerStatus, want *model.Status) []gwv1.ListenerStatus {
	out := make([]gwv1.ListenerStatus, 0, len(want.Listeners))
	for _, w := range want.Listeners {
		l := gwv1.ListenerStatus{
			Name: gwv1.SectionName(w.Name), AttachedRoutes: int32(min(w.AttachedRoutes, 1<<31-1)),
			SupportedKinds: make([]gwv1.RouteGroupKind, 0, len(w.SupportedKinds)),
		}
		for _, k := range w.SupportedKinds {
			group := gwv1.Group(gwv1.GroupName)
			l.SupportedKinds = append(l.SupportedKinds, gwv1.RouteGroupKind{Group: &group, Kind: gwv1.Kind(k)})
		}
		var before []metav1.Condition
		for _, h := range have {
			if h.Name == l.Name {
				before = h.Conditions
			}
		}
		l.Conditions = mergeConditions(before, w.Conditions, want.Generation, m.now)
		out = append(out, l)
	}
	return out
}

// entries are the listeners of a ListenerSet, which have the fields of a Gateway's.
func (m merger) entries(have []gwv1.ListenerEntryStatus, want *model.Status) []gwv1.ListenerEntryStatus {
	before := make([]gwv1.ListenerStatus, len(have))
	for i, h := range have {
		before[i] = gwv1.ListenerStatus(h)
	}
	out := make([]gwv1.ListenerEntryStatus, 0, len(want.Listeners))
	for _, l := range m.listeners(before, want) {
		out = append(out, gwv1.ListenerEntryStatus(l))
	}
	return out
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// maxParents is what the API's schema takes, of all controllers together.
const maxParents = 32

// parents returns the entries of a route's status: those of other controllers as they are, and ours.
func (m merger) parents(route metav1.Object, refs []gwv1.ParentReference, have []gwv1.RouteParentStatus, want *model.Status) []gwv1.RouteParentStatus {
	out := make([]gwv1.RouteParentStatus, 0, len(have))
	for _, h := range have {
		if string(h.ControllerName) != m.controller {
			out = append(out, h)
		}
	}
	if want == nil {
		return out
	}
	for _, w := range want.Parents {
		if len(out) == maxParents {
			break
		}
		if w.Unresolved {
			continue
		}
		p := gwv1.RouteParentStatus{
			ParentRef: parentRef(route.GetNamespace(), refs, w), ControllerName: gwv1.GatewayController(m.controller),
		}
		var before []metav1.Condition
		for _, h := range have {
			if string(h.ControllerName) == m.controller && equality.Semantic.DeepEqual(h.ParentRef, p.ParentRef) {
				before = h.Conditions
			}
		}
		p.Conditions = mergeConditions(before, w.Conditions, want.Generation, m.now)
		out = append(out, p)
	}
	return inOrder(have, out, func(a, b gwv1.RouteParentStatus) bool {
		return a.ControllerName == b.ControllerName && equality.Semantic.DeepEqual(a.ParentRef, b.ParentRef)
	})
}

// inOrder puts entries that were there before into the order that they had, so that two controllers do not move each
// other's entries for ever.
func inOrder[T any](have, out []T, same func(a, b T) bool) []T {
	place := func(p T) int {
		i := slices.IndexFunc(have, func(h T) bool { return same(h, p) })
		if i < 0 {
			return len(have)
		}
		return i
	}
	slices.SortStableFunc(out, func(a, b T) int { return place(a) - place(b) })
	return out
}

// parentRef returns the reference as its author wrote it, so that the two can be compared field by field.
func parentRef(namespace string, refs []gwv1.ParentReference, w model.ParentStatus) gwv1.ParentReference {
	for _, r := range refs {
		ref := model.ObjectRef{
			Group: gwv1.GroupName, Kind: "Gateway", Namespace: namespace, Name: string(r.Name),
		}
		var section string
		var port uint16
		if r.Group != nil {
			ref.Group = string(*r.Group)
		}
		if r.Kind != nil {
			ref.Kind = string(*r.Kind)
		}
		if r.Namespace != nil {
			ref.Namespace = string(*r.Namespace)
		}
		if r.SectionName != nil {
			section = string(*r.SectionName)
		}
		if r.Port != nil && *r.Port > 0 && *r.Port <= math.MaxUint16 {
			port = uint16(*r.Port) // a status holds 0 for what is not a port
		}
		if ref == w.Parent && section == w.SectionName && port == w.Port {
			return r
		}
	}
	group, kind, ns := gwv1.Group(w.Parent.Group), gwv1.Kind(w.Parent.Kind), gwv1.Namespace(w.Parent.Namespace)
	r := gwv1.ParentReference{Group: &group, Kind: &kind, Namespace: &ns, Name: gwv1.ObjectName(w.Parent.Name)}
	if w.SectionName != "" {
		section := gwv1.SectionName(w.SectionName)
		r.SectionName = &section
	}
	if w.Port != 0 {
		port := gwv1.PortNumber(w.Port)
		r.Port = &port
	}
	return r
}
