package gateway

import (
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var classUnits = unitKind{
	name: "GatewayClass", stage: stageModel, compute: gatewayClass,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwv1.GatewayClass] { return o.GatewayClasses }),
}

var meshUnits = unitKind{
	name: "XMesh", stage: stageModel, compute: mesh,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*gwxv1.XMesh] { return o.Meshes }),
}

// gatewayClass is the status of a GatewayClass of ours.
func gatewayClass(v *view, key string) ([]output, bool) {
	c, ok := v.objs.GatewayClasses.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	if string(c.Spec.ControllerName) != v.cfg.ControllerName {
		return nil, true
	}
	s := &model.Status{
		Object:     model.ObjectRef{Group: gwv1.GroupName, Kind: "GatewayClass", Name: c.Name},
		Generation: c.Generation,
		Conditions: []model.Condition{yes(model.ConditionAccepted, string(gwv1.GatewayClassReasonAccepted))},
	}
	if c.Spec.ParametersRef != nil {
		s.Conditions[0] = no(model.ConditionAccepted, string(gwv1.GatewayClassReasonInvalidParameters), "parametersRef is not supported; Gateways of the class are not accepted")
	} else if m := kube.UnknownFieldsOf(c).Message(); m != "" {
		s.Conditions[0] = no(model.ConditionAccepted, string(gwv1.GatewayClassReasonUnsupported), m+"; Gateways of the class are not accepted")
	}
	return []output{v.status(s)}, true
}

// mesh is the status of an XMesh of ours.
func mesh(v *view, key string) ([]output, bool) {
	m, ok := v.objs.Meshes.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	if string(m.Spec.ControllerName) != v.cfg.ControllerName {
		return nil, true
	}
	s := &model.Status{
		Object:     model.ObjectRef{Group: gwxv1.GroupName, Kind: "XMesh", Name: m.Name},
		Generation: m.Generation,
		Conditions: []model.Condition{yes(model.ConditionAccepted, string(gwxv1.MeshReasonAccepted))},
	}
	if m.Spec.ParametersRef != nil {
		s.Conditions[0] = no(model.ConditionAccepted, string(gwxv1.MeshReasonInvalidParameters), "parametersRef is not supported; the mesh works without")
	} else if m := kube.UnknownFieldsOf(m).Message(); m != "" {
		s.Conditions[0] = no(model.ConditionAccepted, string(gwxv1.MeshReasonInvalidParameters), m+"; the mesh works without")
	}
	return []output{v.status(s)}, true
}
