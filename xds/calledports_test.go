package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// TestCalledPortsOfANamespaceAreBounded: a pod that called 14,336 ports of one tenant's Services left 958 MB in Envoy. What is past the
// bound is answered 503, and other namespaces' Services are not touched.
func TestCalledPortsOfANamespaceAreBounded(t *testing.T) {
	w := newWorld(t, Config{testCalledPorts: 2})
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
	w.rejectionsAre("Ports/shop/s2")
	// A table and a cluster are of one port. When both are gone, there is room for the port that was past the limit.
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResourceNamesUnsubscribe: []string{"service/shop/s0/80"}})
	c.quiet()
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeCluster, ResourceNamesUnsubscribe: []string{"service/shop/s0/80"}})
	arrived(t, c, map[string]bool{"service/shop/s2/80": true, "cluster service/shop/s2/80": true})
	if answers("service/shop/s3/80") {
		t.Error("there is room for more than the limit")
	}
	w.rejectionsAre("Ports/shop/s3")
	// The table of the Service that is gone has no rules, and the port past the limit takes its place.
	remove(w, w.st.Services, "shop/s1")
	arrived(t, c, map[string]bool{"service/shop/s1/80": false, "service/shop/s3/80": true})
	w.rejectionsAre()
	l7(w, 4)
	if answers("service/shop/s4/80") {
		t.Error("there is room for more than the limit")
	}
	// The Service is there again, Envoy is still subscribed to it, and others have its place.
	l7(w, 1)
	arrived(t, c, map[string]bool{"service/shop/s1/80": false})
	w.rejectionsAre("Ports/shop/s1", "Ports/shop/s4")
	// It is the next, or the other one is.
	remove(w, w.st.Services, "shop/s4")
	remove(w, w.st.Services, "shop/s3")
	arrived(t, c, map[string]bool{"service/shop/s1/80": true, "cluster service/shop/s1/80": true})
	w.rejectionsAre()
	c.close()
	until(t, "no namespace is remembered when the Envoy is gone", func() error {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		if n := len(w.server.cache.called); n > 0 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
}

// arrived takes responses until each table came that sends requests to its Service (true) or does not (false), and each cluster.
func arrived(t *testing.T, c *client, want map[string]bool) {
	t.Helper()
	for len(want) > 0 {
		response := c.next()
		for _, r := range response.Resources {
			if response.TypeUrl == TypeCluster {
				delete(want, "cluster "+r.Name)
				continue
			}
			var table routev3.RouteConfiguration
			if err := r.Resource.UnmarshalTo(&table); err != nil {
				t.Fatal(err)
			}
			serves := len(table.VirtualHosts) == 1 && table.VirtualHosts[0].Routes[0].GetDirectResponse() == nil
			if own, ok := want[r.Name]; ok && own == serves {
				delete(want, r.Name)
			}
		}
	}
}

// BenchmarkCalledPorts: what a change of one Service costs where a namespace has more ports than the limit.
func BenchmarkCalledPorts(b *testing.B) {
	w := newWorld(b, Config{})
	for i := range 2 * maxCalledPorts {
		l7(w, i)
	}
	c := w.server.cache
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	snap := w.st.Snapshot()
	for i := range 2 * maxCalledPorts {
		c.acquire(c.stores[TypeRoute], fmt.Sprintf("service/shop/s%d/80", i), snap)
	}
	keys := map[state.Key]struct{}{{Table: w.st.Services.ID(), Value: "shop/s0"}: {}}
	for b.Loop() {
		c.calledChanged(keys, snap)
	}
}
