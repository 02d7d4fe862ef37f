package gateway

import (
	"iter"

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

// rootKinds names, for each object table, the units that are about its objects.
var rootKinds = map[string][]unitKind{
	"kube-http-routes":            {unitHTTPRoute},
	"kube-grpc-routes":            {unitGRPCRoute},
	"kube-secrets":                {unitCertificate},
	"kube-pods":                   {unitWorkload},
	"kube-services":               {unitService, unitEndpoints},
	"kube-gateways":               {unitSharing, unitGateway},
	"kube-gateway-classes":        {unitClass},
	"kube-meshes":                 {unitMesh},
	"kube-authorization-policies": {unitPolicy},
	"kube-address-pools":          {unitPool},
}

// rootUnits adds the units that are about the object that changed.
func rootUnits(k state.Key, into map[unit]struct{}) {
	if k.Index != "" {
		return
	}
	for _, kind := range rootKinds[k.Table] {
		into[unit{kind, k.Value}] = struct{}{}
	}
}

// allUnits adds a unit for everything that is there.
func (t *Translator) allUnits(s *state.Snapshot, into map[unit]struct{}) {
	into[unit{kind: unitAddresses}] = struct{}{}
	o := t.objs
	addAll(o.HTTPRoutes.Name(), o.HTTPRoutes.All(s), into)
	addAll(o.GRPCRoutes.Name(), o.GRPCRoutes.All(s), into)
	addAll(o.Secrets.Name(), o.Secrets.All(s), into)
	addAll(o.Pods.Name(), o.Pods.All(s), into)
	addAll(o.Services.Name(), o.Services.All(s), into)
	addAll(o.Gateways.Name(), o.Gateways.All(s), into)
	addAll(o.GatewayClasses.Name(), o.GatewayClasses.All(s), into)
	addAll(o.Meshes.Name(), o.Meshes.All(s), into)
	addAll(o.AuthorizationPolicies.Name(), o.AuthorizationPolicies.All(s), into)
	addAll(o.AddressPools.Name(), o.AddressPools.All(s), into)
}

func addAll[T metav1.Object](table string, objects iter.Seq[T], into map[unit]struct{}) {
	for o := range objects {
		rootUnits(state.Key{Table: table, Value: kube.Key(o)}, into)
	}
}
