//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

const (
	manyServices = 500
	routesEach   = 4
	applying     = 8 // at once
)

// TestManyObjects applies 500 Services and 2,000 HTTPRoutes while traffic flows, and takes them away again.
func TestManyObjects(t *testing.T) {
	all := background(t)
	ns := "e2e-many"
	namespace(t, ns, "")
	deploy(t, deployment{namespace: ns, name: "web", replicas: 2}, deployment{namespace: ns, name: "client", node: "n1"})
	f := begin(t, all...)

	began := time.Now()
	applyAll(t, manyServices, func(i int) string { return service(ns, fmt.Sprintf("s%d", i), "web") })
	measured(t, "500 Services applied", time.Since(began))
	routes := time.Now()
	applyAll(t, manyServices*routesEach, func(i int) string { return numbered(ns, i) })
	applied := time.Now()
	measured(t, "2,000 HTTPRoutes applied", applied.Sub(routes))
	last := manyServices*routesEach - 1
	for _, i := range []int{0, last / 2, last} {
		url := fmt.Sprintf("http://%s/%d", clusterIP(t, ns, serviceOf(i)), i)
		took := eventually(t, settle, func() error {
			if a := call(t, ns, "client", url); a.Status != 200 {
				return fmt.Errorf("%s: %+v", url, a)
			}
			return nil
		})
		measured(t, fmt.Sprintf("route %d answers after the last one was applied", i), took)
	}
	for i := range manyServices * routesEach {
		accepted(t, ns, fmt.Sprintf("r%d", i))
	}
	measured(t, "all HTTPRoutes have their status, after the last was applied", time.Since(applied))
	remove(t, "v1", "Namespace", "", ns)
	took := eventually(t, 3*settle, func() error { // Kubernetes removes some 20 objects a second
		if err := read(t, "v1", "Namespace", "", ns, nil); !errors.Is(err, errNotFound) {
			return fmt.Errorf("Namespace %s is still there: %w", ns, err)
		}
		return nil
	})
	measured(t, "all of it is gone", took)
	keepFlowing(5 * time.Second)
	f.end()
}

func serviceOf(i int) string { return fmt.Sprintf("s%d", i/routesEach) }

// numbered is a route for one path of one of the many Services.
func numbered(ns string, i int) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r%[2]d, namespace: %[1]s}
spec:
  parentRefs: [{group: "", kind: Service, name: %[3]s, port: 80}]
  rules:
    - matches: [{path: {type: Exact, value: /%[2]d}}]
      backendRefs: [{name: %[3]s, port: 80}]
`, ns, i, serviceOf(i))
}

// applyAll applies n objects, some at once.
func applyAll(t *testing.T, n int, manifest func(i int) string) {
	t.Helper()
	next, mu := 0, sync.Mutex{}
	var errs []error
	var workers sync.WaitGroup
	for range applying {
		workers.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := i >= n || len(errs) > 0
				mu.Unlock()
				if stop {
					return
				}
				if err := applyText(t.Context(), manifest(i)); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	workers.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func applyText(ctx context.Context, manifest string) error {
	objects, err := parse(manifest)
	for _, o := range objects {
		if err == nil {
			err = mesh.api.applyOne(ctx, o)
		}
	}
	return err
}
