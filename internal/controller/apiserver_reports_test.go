//go:build cluster

package controller

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/nodereport"
	"github.com/weft-mesh/weft/internal/state"
)

// What the Envoy of a node refuses, and that it was replaced, comes from its agent to the object's condition and to an
// Event of the node. The route beside it is accepted throughout.
func reportsReachConditions(t *testing.T, w *caWorld, agent *rest.Config) {
	w.install(crdsOfTheGatewayAPI(t, "gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants")...)
	w.create(service)
	bad, mended, good := w.create(serviceRoute("bad")), w.create(serviceRoute("mended")), w.create(serviceRoute("good"))
	w.start("controller", func(c *Config) { c.Defaults = false })

	st := state.New(state.NewDB())
	txn := st.Write(st.Rejections, st.Proxies)
	refused := &model.Rejection{Resource: "RouteConfiguration/x", Message: "no such thing"}
	for _, name := range []string{"bad", "mended"} {
		ref := model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: "default", Name: name}
		refused.Objects = append(refused.Objects, model.ObjectVersion{ObjectRef: ref, Generation: 1})
	}
	st.Rejections.Put(txn, refused)
	st.Proxies.Put(txn, &model.Proxy{State: "LIVE"})
	txn.Commit()
	w.report(st, agent)
	w.until("the refused routes say so", func() bool {
		return condition(w.get(bad), "Accepted") == "False UnsupportedValue" && condition(w.get(mended), "Accepted") == "False UnsupportedValue" &&
			condition(w.get(good), "Accepted") == "True Accepted"
	})
	if text := message(w.get(bad), "Accepted"); !strings.Contains(text, "Envoy of node n1 refused RouteConfiguration/x: no such thing") {
		t.Errorf("the condition says %q", text)
	}

	txn = st.Write(st.Proxies)
	st.Proxies.Put(txn, &model.Proxy{State: "LIVE", Overloads: 1})
	txn.Commit()
	w.until("an Event of the node", func() bool {
		events, err := w.client.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if e.Regarding.Kind == "Node" && e.Regarding.Name == "n1" && e.Reason == "EnvoyReplaced" {
				return true
			}
		}
		return false
	})

	changed := w.get(mended)
	if err := unstructured.SetNestedStringSlice(changed.Object, []string{"mended.example"}, "spec", "hostnames"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.resource(mended).Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("a newer generation is not marked", func() bool { return condition(w.get(mended), "Accepted") == "True Accepted" })
	w.until("the route that is refused as it was still is", func() bool { return condition(w.get(bad), "Accepted") == "False UnsupportedValue" })
	if c := condition(w.get(good), "Accepted"); c != "True Accepted" {
		t.Errorf("the other route is %s", c)
	}
}

func serviceRoute(name string) string {
	return `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: ` + name + `, namespace: default},
  spec: {parentRefs: [{group: "", kind: Service, name: s}], rules: [{backendRefs: [{name: s, port: 80}]}]}}`
}

// report reports as the agent of node n1 until the test ends.
func (w *caWorld) report(st *state.State, cfg *rest.Config) {
	times := nodereport.DefaultTimes
	times.Pause, times.Look = 100*time.Millisecond, 50*time.Millisecond
	writer := nodereport.New(st, nodereport.Config{Kube: cfg, Node: "n1", Times: times, Log: slog.New(slog.NewTextHandler(w.Output(), nil))})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- writer.Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
}

// message is the message of a condition of a route's parent of ours.
func message(o *unstructured.Unstructured, kind string) string {
	parents, _, _ := unstructured.NestedSlice(o.Object, "status", "parents")
	for _, p := range parents {
		conditions, _, _ := unstructured.NestedSlice(p.(map[string]any), "conditions")
		for _, c := range conditions {
			if c := c.(map[string]any); c["type"] == kind {
				return c["message"].(string)
			}
		}
	}
	return ""
}
