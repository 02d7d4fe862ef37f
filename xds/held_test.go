package xds

import (
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weft-mesh/weft/internal/model"
)

// TestPortsOfANamespaceAreBounded: a pod that called 14,336 ports of one tenant's Services left 958 MB in Envoy. What is past the
// bound is answered 503, and other namespaces' Services are not touched.
func TestPortsOfANamespaceAreBounded(t *testing.T) {
	w := newWorld(t, Config{testHeld: 2})
	for i := range 4 {
		l7(w, i)
	}
	put(w, w.st.Services, &model.Service{Namespace: "bank", Name: "b", Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true}}})
	c := w.client()
	answers := func(name string) (own bool) {
		t.Helper()
		c.subscribe(TypeRoute, name)
		r := c.next()
		var table routev3.RouteConfiguration
		if len(r.Resources) != 1 || r.Resources[0].Resource.UnmarshalTo(&table) != nil || len(table.VirtualHosts) != 1 {
			t.Fatalf("table %s: %v", name, r)
		}
		d := table.VirtualHosts[0].Routes[0].GetDirectResponse()
		if d != nil && (d.Status != 503 || !strings.Contains(d.Body.GetInlineString(), "too many ports")) {
			t.Errorf("table %s answers %v", name, d)
		}
		return d == nil
	}
	for i, name := range []string{"service/bank/b/80", "service/shop/s0/80", "service/shop/s1/80", "service/shop/s2/80"} {
		if own := answers(name); own != (i < 3) {
			t.Errorf("table %s is its own: %t", name, own)
		}
	}
	c.subscribe(TypeCluster, "service/shop/s0/80", "service/shop/s1/80", "service/shop/s2/80", "service/bank/b/80")
	if r := c.next(); !slices.Equal(resourceNames(r), []string{"service/bank/b/80", "service/shop/s0/80", "service/shop/s1/80"}) ||
		!slices.Equal(r.RemovedResources, []string{"service/shop/s2/80"}) {
		t.Errorf("clusters %v, not there %v", resourceNames(r), r.RemovedResources)
	}
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesUnsubscribe: []string{"service/shop/s0/80"}})
	if !answers("service/shop/s3/80") {
		t.Error("the room of a table that went is not for another")
	}
	txn := w.st.Write(w.st.Services)
	w.st.Services.Delete(txn, "shop/s1")
	txn.Commit()
	// The table of the Service that is gone has no rules, and those that were over are served.
	got := map[string]bool{}
	for !got["service/shop/s1/80"] || !got["service/shop/s2/80"] || !got["cluster service/shop/s2/80"] {
		response := c.next()
		for _, r := range response.Resources {
			if response.TypeUrl == TypeCluster {
				got["cluster "+r.Name] = true
				continue
			}
			var table routev3.RouteConfiguration
			if err := r.Resource.UnmarshalTo(&table); err != nil {
				t.Fatal(err)
			}
			if r.Name == "service/shop/s2/80" && table.VirtualHosts[0].Routes[0].GetDirectResponse() != nil {
				t.Errorf("table %s answers %v", r.Name, table.VirtualHosts[0].Routes[0])
			}
			got[r.Name] = true
		}
	}
	l7(w, 4)
	if answers("service/shop/s4/80") {
		t.Error("there is room for more than the bound")
	}
}
