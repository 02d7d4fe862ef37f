package xds

import (
	"fmt"
	"slices"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

const (
	refusedTable  = "service/shop/s1/80"
	refusedFilter = "shop/p/in"
)

// refuser subscribes to a resource and refuses its first version.
func (w *world) refuser(typeURL, name string) *client {
	w.t.Helper()
	c, first := w.client(), ""
	c.refuse = func(r *discovery.DeltaDiscoveryResponse) string {
		for _, res := range r.Resources {
			if first == "" && res.Name == name {
				first = res.Version
			}
			if res.Version == first {
				return "no such file or directory"
			}
		}
		return ""
	}
	c.subscribe(typeURL, name)
	return c
}

// rejectionsAre waits for the keys of the table's rows.
func (w *world) rejectionsAre(want ...string) {
	w.t.Helper()
	until(w.t, "rejections", func() error {
		if got := w.rejections(); !slices.Equal(got, want) {
			return fmt.Errorf("%v, want %v", got, want)
		}
		return nil
	})
}

// Envoy may refuse a resource after it has gone: a listener in the network namespace of a pod that has ended. Nothing would
// ever clear the row.
func TestRefusedAfterItHasGone(t *testing.T) {
	type ref struct{ typeURL, name string }
	table, filter := ref{TypeRoute, refusedTable}, ref{TypeFilter, refusedFilter}
	unsubscribe := func(_ *world, c *client, r ref) {
		c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.typeURL, ResourceNamesUnsubscribe: []string{r.name}})
	}
	for _, test := range []struct {
		name string
		ref
		end func(w *world, c *client, r ref)
	}{
		{"emptied", table, func(w *world, _ *client, _ ref) { remove(w, w.st.RouteTables, refusedTable) }},
		{"replaced", table, func(w *world, _ *client, _ ref) { split(w, "s1", 1, 2) }},
		{"deleted", filter, func(w *world, _ *client, _ ref) { remove(w, w.st.Workloads, "shop/p") }},
		{"not asked for", table, unsubscribe},
		{"not asked for", filter, unsubscribe},
	} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %s, late %v", test.ref.name, test.name, late), func(t *testing.T) {
				w := newWorld(t, Config{})
				split(w, "s1", 1, 1)
				put(w, w.st.Workloads, acceptedPod(nil, "ops"))
				c := w.refuser(test.typeURL, test.ref.name)
				first := <-c.got
				if !late {
					c.answer(first)
					w.rejectionsAre(rejectionKey(test.typeURL, test.ref.name))
				}
				test.end(w, c, test.ref)
				w.changedFrom(test.typeURL, test.ref.name, first.Resources[0].Version)
				if late {
					c.answer(first)
				}
				c.drain()
				w.rejectionsAre()
			})
		}
	}
}

// A row says what connected Envoys refuse. One that ends while its successor accepts all leaves none.
func TestRefusedByAnEnvoyThatEnded(t *testing.T) {
	w := newWorld(t, Config{})
	split(w, "s1", 1, 1)
	next := w.client()
	next.subscribe(TypeRoute, refusedTable)
	next.next()
	next.quiet()
	old := w.refuser(TypeRoute, refusedTable)
	old.next()
	w.rejectionsAre("RouteConfiguration/" + refusedTable)
	old.close()
	w.rejectionsAre()
}

// changedFrom waits until the server no longer has a resource in a version.
func (w *world) changedFrom(typeURL, name, version string) {
	w.t.Helper()
	until(w.t, "the server follows", func() error {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		if r := w.server.cache.stores[typeURL].resources[name]; r != nil && r.version == version {
			return fmt.Errorf("still version %s", version)
		}
		return nil
	})
}
