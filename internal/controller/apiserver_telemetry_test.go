//go:build cluster

package controller

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

func telemetryPolicy(name, gateway, tracing string) string {
	return `{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XTelemetryPolicy, metadata: {name: ` + name + `, namespace: default},
  spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: ` + gateway + `}], tracing: ` + tracing + `}}`
}

// ancestorCondition returns status and reason of a condition that the mesh has written for a policy's ancestor.
func ancestorCondition(o *unstructured.Unstructured, kind string) string {
	ancestors, _, _ := unstructured.NestedSlice(o.Object, "status", "ancestors")
	for _, a := range ancestors {
		a := a.(map[string]any)
		if a["controllerName"] != "weft.io/gateway-controller" {
			continue
		}
		for _, c := range a["conditions"].([]any) {
			if c := c.(map[string]any); c["type"] == kind {
				return fmt.Sprint(c["status"], " ", c["reason"])
			}
		}
	}
	return ""
}

// telemetryPolicies: the kind comes after the controller; of two policies for a Gateway the first is in force, and the second takes
// its place. Another controller's entries stay.
func telemetryPolicies(w *world) {
	w.install(crdsOfTheGatewayAPI(w.T, "xtelemetrypolicies")...)
	const enabled = `{mode: Enabled, provider: {backendRef: {name: otel, port: 4317}}, samplingRate: {numerator: 5}}`
	first, second := w.create(telemetryPolicy("a", "gw", enabled)), w.create(telemetryPolicy("b", "gw", "{mode: Disabled}"))
	lost := w.create(telemetryPolicy("lost", "missing", "{mode: Disabled}"))
	partly := w.create(telemetryPolicy("partly", "missing-2", `{mode: Enabled, provider: {backendRef: {name: otel, port: 4317}}, parentBasedSampling: {mode: Enabled, samplingRate: {numerator: 50}}}`))
	w.until("statuses of telemetry policies", func() bool {
		return ancestorCondition(w.get(first), "Accepted") == "True Accepted" && ancestorCondition(w.get(first), "ResolvedRefs") == "False BackendNotFound" &&
			ancestorCondition(w.get(second), "Accepted") == "False Conflicted" && ancestorCondition(w.get(lost), "Accepted") == "False TargetNotFound" &&
			ancestorCondition(w.get(partly), "Accepted") == "False TargetNotFound"
	})
	w.create(`{apiVersion: v1, kind: Service, metadata: {name: otel, namespace: default}, spec: {selector: {app: otel}, ports: [{port: 4317}]}}`)
	w.until("the collector is found", func() bool { return ancestorCondition(w.get(first), "ResolvedRefs") == "True ResolvedRefs" })

	patch := []byte(`{"status":{"ancestors":[{"controllerName":"other.example/c","ancestorRef":{"name":"gw"},"conditions":[
  {"type":"Accepted","status":"False","reason":"Other","message":"","lastTransitionTime":"2020-01-01T00:00:00Z"}]}]}}`)
	if _, err := w.resource(second).Patch(w.Context(), second.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		w.Fatal(err)
	}
	if err := w.resource(first).Delete(w.Context(), first.GetName(), metav1.DeleteOptions{}); err != nil {
		w.Fatal(err)
	}
	w.until("the second policy is in force, and another's entry is kept", func() bool {
		o := w.get(second)
		ancestors, _, _ := unstructured.NestedSlice(o.Object, "status", "ancestors")
		return ancestorCondition(o, "Accepted") == "True Accepted" && len(ancestors) == 2 && ancestors[0].(map[string]any)["controllerName"] == "other.example/c"
	})
	bad := w.object(telemetryPolicy("bad", "gw", `{mode: Enabled, provider: {backendRef: {name: otel, port: 4317}}, samplingRate: {numerator: 150}}`))
	if _, err := w.resource(bad).Create(w.Context(), bad, metav1.CreateOptions{}); err == nil {
		w.Error("the API server takes 150/100 as a rate")
	}
}
