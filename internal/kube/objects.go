package kube

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Objects holds what users wrote, one table a kind. Keys are model.Key(namespace, name); the namespace of objects of
// the cluster (Namespace, Node, GatewayClass, XMesh, AddressPool) is "". Objects in it are immutable.
type Objects struct {
	DB                    *state.DB
	Namespaces            *state.Table[*corev1.Namespace]
	Nodes                 *state.Table[*corev1.Node]
	ServiceAccounts       *state.Table[*corev1.ServiceAccount]
	Pods                  *state.Table[*corev1.Pod]
	Services              *state.Table[*corev1.Service]
	EndpointSlices        *state.Table[*discoveryv1.EndpointSlice]
	Secrets               *state.Table[*corev1.Secret]
	ConfigMaps            *state.Table[*corev1.ConfigMap]
	Gateways              *state.Table[*gwv1.Gateway]
	GatewayClasses        *state.Table[*gwv1.GatewayClass]
	ListenerSets          *state.Table[*gwv1.ListenerSet]
	Meshes                *state.Table[*gwxv1.XMesh]
	HTTPRoutes            *state.Table[*gwv1.HTTPRoute]
	GRPCRoutes            *state.Table[*gwv1.GRPCRoute]
	TLSRoutes             *state.Table[*gwv1.TLSRoute]
	TCPRoutes             *state.Table[*gwv1.TCPRoute]
	UDPRoutes             *state.Table[*gwv1.UDPRoute]
	ReferenceGrants       *state.Table[*gwv1.ReferenceGrant]
	BackendTLSPolicies    *state.Table[*gwv1.BackendTLSPolicy]
	TelemetryPolicies     *state.Table[*gwxv1.XTelemetryPolicy]
	AuthorizationPolicies *state.Table[*weftv1.AuthorizationPolicy]
	AddressPools          *state.Table[*weftv1.AddressPool]
	// Problems are written by the source of the objects.
	Problems *state.Table[*Problem]

	kinds []Kind
}

// Names of indexes.
const (
	// ByNamespace finds the objects of a namespace: Pods, Services, ReferenceGrants, AuthorizationPolicies.
	ByNamespace = "namespace"
	// ByLabel finds Pods by LabelKey(namespace, label, value), so that a selector need not look at a whole namespace.
	ByLabel = "label"
	// ByAddress finds Pods by each of PodAddresses, Services by each of ServiceAddresses, and Nodes by each of
	// NodeAddresses.
	ByAddress = "address"
	// ByNode finds Pods by spec.nodeName.
	ByNode = "node"
	// ByService finds EndpointSlices by the namespace/name of their Service, and AuthorizationPolicies and
	// BackendTLSPolicies by that of each Service that they target.
	ByService = "service"
	// ByParent finds routes, ListenerSets and XTelemetryPolicies by ParentKey.
	ByParent = "parent"
	// ByClass finds Gateways by the name of their class.
	ByClass = "class"
	// BySecret finds Gateways and ListenerSets by the namespace/name of each Secret that a listener refers to.
	BySecret = "secret"
	// ByObject finds Problems; see ProblemsOf.
	ByObject = "object"
)

// NewObjects makes the tables in a database.
func NewObjects(db *state.DB) *Objects {
	o := &Objects{
		DB:         db,
		Namespaces: table[*corev1.Namespace](db, "kube-namespaces"),
		Nodes: table(db, "kube-nodes", state.Index[*corev1.Node]{Name: ByAddress, Of: func(n *corev1.Node) []string {
			return texts(NodeAddresses(n))
		}}),
		ServiceAccounts: table[*corev1.ServiceAccount](db, "kube-service-accounts"),
		Pods: table(db, "kube-pods", byNamespace[*corev1.Pod](),
			state.Index[*corev1.Pod]{Name: ByLabel, Of: func(p *corev1.Pod) []string { return labelKeys(p.Namespace, p.Labels) }},
			state.Index[*corev1.Pod]{Name: ByAddress, Of: podAddressTexts},
			state.Index[*corev1.Pod]{Name: ByNode, Of: func(p *corev1.Pod) []string {
				if n := p.Spec.NodeName; n != "" {
					return []string{n}
				}
				return nil
			}}),
		Services: table(db, "kube-services", byNamespace[*corev1.Service](),
			state.Index[*corev1.Service]{Name: ByAddress, Of: func(s *corev1.Service) []string {
				addrs, _ := ServiceAddresses(s)
				return texts(addrs)
			}}),
		EndpointSlices: table(db, "kube-endpoint-slices",
			state.Index[*discoveryv1.EndpointSlice]{Name: ByService, Of: sliceService}),
		Secrets:    table[*corev1.Secret](db, "kube-secrets"),
		ConfigMaps: table[*corev1.ConfigMap](db, "kube-config-maps"),
		Gateways: table(db, "kube-gateways",
			state.Index[*gwv1.Gateway]{Name: ByClass, Of: func(g *gwv1.Gateway) []string { return []string{string(g.Spec.GatewayClassName)} }},
			state.Index[*gwv1.Gateway]{Name: BySecret, Of: GatewaySecrets}),
		ListenerSets: table(db, "kube-listener-sets",
			state.Index[*gwv1.ListenerSet]{Name: ByParent, Of: listenerSetParents},
			state.Index[*gwv1.ListenerSet]{Name: BySecret, Of: ListenerSetSecrets}),
		GatewayClasses: table[*gwv1.GatewayClass](db, "kube-gateway-classes"),
		Meshes:         table[*gwxv1.XMesh](db, "kube-meshes"),
		HTTPRoutes: table(db, "kube-http-routes",
			state.Index[*gwv1.HTTPRoute]{Name: ByParent, Of: func(r *gwv1.HTTPRoute) []string { return parentKeys(r.Namespace, r.Spec.ParentRefs) }}),
		GRPCRoutes: table(db, "kube-grpc-routes",
			state.Index[*gwv1.GRPCRoute]{Name: ByParent, Of: func(r *gwv1.GRPCRoute) []string { return parentKeys(r.Namespace, r.Spec.ParentRefs) }}),
		TLSRoutes:       table[*gwv1.TLSRoute](db, "kube-tls-routes"),
		TCPRoutes:       table[*gwv1.TCPRoute](db, "kube-tcp-routes"),
		UDPRoutes:       table[*gwv1.UDPRoute](db, "kube-udp-routes"),
		ReferenceGrants: table(db, "kube-reference-grants", byNamespace[*gwv1.ReferenceGrant]()),
		BackendTLSPolicies: table(db, "kube-backend-tls-policies",
			state.Index[*gwv1.BackendTLSPolicy]{Name: ByService, Of: tlsPolicyServices}),
		TelemetryPolicies: table(db, "kube-telemetry-policies",
			state.Index[*gwxv1.XTelemetryPolicy]{Name: ByParent, Of: telemetryParents}),
		AuthorizationPolicies: table(db, "kube-authorization-policies", byNamespace[*weftv1.AuthorizationPolicy](),
			state.Index[*weftv1.AuthorizationPolicy]{Name: ByService, Of: policyServices}),
		AddressPools: table[*weftv1.AddressPool](db, "kube-address-pools"),
		Problems: state.NewTable(db, "kube-problems", (*Problem).Key,
			state.Index[*Problem]{Name: ByObject, Of: func(p *Problem) []string { return []string{problemObject(p.Object)} }}),
	}
	o.kinds = o.allKinds()
	return o
}

// Key is an object's key in its table.
func Key(o metav1.Object) string { return model.Key(o.GetNamespace(), o.GetName()) }

func table[T metav1.Object](db *state.DB, name string, indexes ...state.Index[T]) *state.Table[T] {
	return state.NewTable(db, name, func(o T) string { return Key(o) }, indexes...)
}

func byNamespace[T metav1.Object]() state.Index[T] {
	return state.Index[T]{Name: ByNamespace, Of: func(o T) []string { return []string{o.GetNamespace()} }}
}
