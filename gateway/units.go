package gateway

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

// unit is one computation: a kind and the key of the object that it is about.
type unit struct {
	kind unitKind
	key  string
}

type unitKind uint8

const (
	unitAddresses unitKind = iota
	unitSharing
	unitHTTPRoute
	unitGRPCRoute
	unitCertificate
	unitWorkload
	unitService
	unitEndpoints
	unitGateway
	unitClass
	unitMesh
	unitPolicy
	unitPool
)

const levels = 4

func (k unitKind) level() int {
	switch k {
	case unitAddresses:
		return 0
	case unitSharing:
		return 1
	case unitHTTPRoute, unitGRPCRoute, unitCertificate:
		return 2
	}
	return 3
}

// compute runs the unit. alive is false when its object is gone, so that it need not be run again until the object
// comes back.
func (u unit) compute(v *view) (outs []output, alive bool) {
	switch u.kind {
	case unitAddresses:
		return assignAddresses(v), true
	case unitSharing:
		return share(v, u.key)
	case unitHTTPRoute:
		return httpRoute(v, u.key)
	case unitGRPCRoute:
		return grpcRoute(v, u.key)
	case unitCertificate:
		return certificate(v, u.key)
	case unitWorkload:
		return workload(v, u.key)
	case unitService:
		return service(v, u.key)
	case unitEndpoints:
		return endpoints(v, u.key)
	case unitGateway:
		return gatewayUnit(v, u.key)
	case unitClass:
		return gatewayClass(v, u.key)
	case unitMesh:
		return mesh(v, u.key)
	case unitPolicy:
		return policyStatus(v, u.key)
	case unitPool:
		return poolStatus(v, u.key)
	}
	return nil, false
}

// rootKinds returns, for each object table, the units that are about its objects.
func rootKinds(o *kube.Objects) map[state.TableID][]unitKind {
	return map[state.TableID][]unitKind{
		o.HTTPRoutes.ID():            {unitHTTPRoute},
		o.GRPCRoutes.ID():            {unitGRPCRoute},
		o.Secrets.ID():               {unitCertificate},
		o.Pods.ID():                  {unitWorkload},
		o.Services.ID():              {unitService, unitEndpoints},
		o.Gateways.ID():              {unitSharing, unitGateway},
		o.GatewayClasses.ID():        {unitClass},
		o.Meshes.ID():                {unitMesh},
		o.AuthorizationPolicies.ID(): {unitPolicy},
		o.AddressPools.ID():          {unitPool},
	}
}

// rootUnits adds the units that are about the object that changed.
func (t *Translator) rootUnits(k state.Key, into map[unit]struct{}) {
	if k.Index != "" {
		return
	}
	for _, kind := range t.roots[k.Table] {
		into[unit{kind, k.Value}] = struct{}{}
	}
}

// allUnits adds a unit for everything that is there.
func (t *Translator) allUnits(s *state.Snapshot, into map[unit]struct{}) {
	into[unit{kind: unitAddresses}] = struct{}{}
	o := t.objs
	addAll(t, o.HTTPRoutes, s, into)
	addAll(t, o.GRPCRoutes, s, into)
	addAll(t, o.Secrets, s, into)
	addAll(t, o.Pods, s, into)
	addAll(t, o.Services, s, into)
	addAll(t, o.Gateways, s, into)
	addAll(t, o.GatewayClasses, s, into)
	addAll(t, o.Meshes, s, into)
	addAll(t, o.AuthorizationPolicies, s, into)
	addAll(t, o.AddressPools, s, into)
}

func addAll[T metav1.Object](t *Translator, table *state.Table[T], s *state.Snapshot, into map[unit]struct{}) {
	for o := range table.All(s) {
		t.rootUnits(state.Key{Table: table.ID(), Value: kube.Key(o)}, into)
	}
}
