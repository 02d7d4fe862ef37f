package gateway

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// TestParentsOfForeignGroups: a parentRef to another group's kind of the name Gateway or Service is not about ours. It
// neither excludes other routes from a listener nor counts against the namespace's share.
func TestParentsOfForeignGroups(t *testing.T) {
	w := newWorld(testConfig)
	from := gwv1.NamespacesFromAll
	listener := func(name gwv1.SectionName, port gwv1.PortNumber) gwv1.Listener {
		return gwv1.Listener{Name: name, Port: port, Protocol: gwv1.HTTPProtocolType, AllowedRoutes: &gwv1.AllowedRoutes{Namespaces: &gwv1.RouteNamespaces{From: &from}}}
	}
	w.put(t, &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "weft"}, Spec: gwv1.GatewayClassSpec{ControllerName: ControllerName}},
		&gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "gw"}, Spec: gwv1.GatewaySpec{
			GatewayClassName: "weft", Listeners: []gwv1.Listener{listener("a", 80), listener("b", 81)},
		}}, simpleService("ns", "web"))
	foreign := gwv1.Group("foreign.example")
	grpc := &gwv1.GRPCRoute{ObjectMeta: created("ns", "grpc", 10), Spec: gwv1.GRPCRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{
		{Name: "gw", SectionName: new(gwv1.SectionName("b"))},
		{Group: &foreign, Kind: new(gwv1.Kind("Gateway")), Name: "gw", SectionName: new(gwv1.SectionName("a"))},
		{Group: &foreign, Kind: new(gwv1.Kind("Service")), Name: "web"},
		{Kind: new(gwv1.Kind("Service")), Name: "web"}, // of the Gateway API's group, which has none
	}}}}
	http := serviceRoute("ns", "http", "web", 1)
	http.ObjectMeta = created("ns", "http", 1)
	http.Spec.ParentRefs = []gwv1.ParentReference{{Name: "gw", SectionName: new(gwv1.SectionName("a"))}}
	w.put(t, grpc, http)
	w.Sync()
	if !w.accepted("ns", "http") {
		t.Error("a parentRef to a foreign kind excludes the HTTPRoute from the listener")
	}
	ref := model.ObjectRef{Group: gwv1.GroupName, Kind: "GRPCRoute", Namespace: "ns", Name: "grpc"}
	if d, ok := w.routeDemands.Get(w.st.Snapshot(), ref.String()); !ok || d.matches != 1 {
		t.Errorf("of one attachment and one match the demand is %+v", d)
	}
}
