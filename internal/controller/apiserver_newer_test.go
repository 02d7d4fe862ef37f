//go:build cluster

package controller

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weft-mesh/weft/internal/kube"
)

// addFields adds fields to the schemas of a CRD, that of the version which is stored too, at a path of properties; the elements of
// lists have no name.
func (w *world) addFields(plural string, at []string, add map[string]any) {
	w.Helper()
	o := w.get(&unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": plural + ".gateway.networking.k8s.io"},
	}})
	versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
	for _, v := range versions {
		field := v.(map[string]any)["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
		for _, name := range at {
			field = field["properties"].(map[string]any)[name].(map[string]any)
			if items, ok := field["items"].(map[string]any); ok {
				field = items
			}
		}
		maps.Copy(field["properties"].(map[string]any), add)
	}
	if err := unstructured.SetNestedSlice(o.Object, versions, "spec", "versions"); err != nil {
		w.Fatal(err)
	}
	if _, err := w.resource(o).Update(w.Context(), o, metav1.UpdateOptions{}); err != nil {
		w.Fatal(err)
	}
}

// createNewer makes an object with a field that an API server knows a moment later.
func (w *world) createNewer(text string) *unstructured.Unstructured {
	w.Helper()
	o := w.object(text)
	var last error
	defer func() {
		if last != nil {
			w.Log(last)
		}
	}()
	w.until("the newer CRD of "+o.GetKind()+" is served", func() bool {
		made, err := w.resource(o).Create(w.Context(), o, metav1.CreateOptions{FieldValidation: "Strict"})
		if last = err; err == nil {
			o = made
		}
		return err == nil
	})
	return o
}

// TestNewerCRDs: CRDs become newer than this program while it runs. What has a field that only they have is closed and says so, also to
// an agent that starts later; what nobody set in them changes nothing.
func TestNewerCRDs(t *testing.T) {
	w := newWorld(t)
	w.install(crdsOfTheGatewayAPI(t, "gatewayclasses", "gateways", "listenersets", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes", "referencegrants", "backendtlspolicies")...)
	w.install("../../install/crds/weft.io_addresspools.yaml", "../../install/crds/weft.io_authorizationpolicies.yaml")
	w.create(serviceOfAll)
	w.create(`{apiVersion: v1, kind: Service, metadata: {name: t, namespace: default}, spec: {ports: [{port: 80, appProtocol: tcp}]}}`)
	w.create(pool)
	c, _ := w.start("controller")
	first, _, stopFirst := w.agentOf()
	defer stopFirst()
	gwObj, before := w.create(gw), w.create(route("before", ""))
	w.until("a route is accepted", func() bool { return condition(w.get(before), "Accepted") == "True Accepted" })

	text := map[string]any{"type": "string"}
	defaulted := map[string]any{"type": "object", "default": map[string]any{}, "properties": map[string]any{"mode": map[string]any{"type": "string", "default": "Open"}}}
	w.addFields("httproutes", []string{"spec", "rules"}, map[string]any{"when": text, "limits": defaulted})
	w.addFields("httproutes", []string{"spec", "rules", "matches"}, map[string]any{"source": text})
	w.addFields("gateways", []string{"spec", "listeners"}, map[string]any{"when": text, "limits": defaulted})
	w.addFields("referencegrants", []string{"spec", "from"}, map[string]any{"name": text})
	w.addFields("tcproutes", []string{"spec"}, map[string]any{"when": text})

	const api = `{apiVersion: gateway.networking.k8s.io/v1, kind: `
	newer := w.createNewer(strings.Replace(route("newer", `}, {when: noon, backendRefs: [{name: s, port: 80}]`), "[{name: gw}]", `[{name: gw}, {group: "", kind: Service, name: s}]`, 1))
	match := w.createNewer(route("match", `, matches: [{source: 10.0.0.0/8}]`))
	other := w.createNewer(api + `Gateway, metadata: {name: other, namespace: default}, spec: {gatewayClassName: weft, listeners: [{name: a, port: 81, protocol: HTTP, when: noon}, {name: b, port: 82, protocol: HTTP}]}}`)
	grant := w.createNewer(api + `ReferenceGrant, metadata: {name: g, namespace: default}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop, name: web}], to: [{group: "", kind: Service}]}}`)
	tcp := w.createNewer(api + `TCPRoute, metadata: {name: tcp, namespace: default}, spec: {when: noon, parentRefs: [{group: "", kind: Service, name: t}], rules: [{backendRefs: [{name: s, port: 80}]}]}}`)

	late := w.create(route("late", ""))
	w.until("what is newer is closed, and the rest is not", func() bool {
		return condition(w.get(newer), "PartiallyInvalid") == "True UnsupportedValue" && condition(w.get(newer), "Accepted") == "True Accepted" &&
			condition(w.get(match), "Accepted") == "False UnsupportedValue" && condition(w.get(tcp), "Accepted") == "False UnsupportedValue" &&
			condition(w.get(other), "Accepted") == "True ListenersNotValid" && condition(w.get(late), "Accepted") == "True Accepted"
	})
	if text := fmt.Sprint(w.get(other).Object["status"]); !strings.Contains(text, "spec.listeners[0].when: not known") || strings.Contains(text, "limits") {
		t.Errorf("status of the Gateway: %s", text)
	}
	if limits, _, _ := unstructured.NestedSlice(w.get(before).Object, "spec", "rules"); limits[0].(map[string]any)["limits"] == nil {
		t.Errorf("the API server did not complete %v", limits)
	}

	second, agent, stopSecond := w.agentOf()
	defer stopSecond()
	w.until("another agent has read all", func() bool { return closed(agent.Loaded()) })
	want := map[*unstructured.Unstructured]string{
		gwObj: "", before: "", late: "", newer: "spec.rules[1].when", match: "spec.rules[0].matches[0].source",
		other: "spec.listeners[0].when", grant: "spec.from[0].name", tcp: "spec.when",
	}
	for name, objs := range map[string]*kube.Objects{"the first agent": first, "the second agent": second, "the controller": c.objs} {
		for o, unknown := range want {
			w.until(fmt.Sprintf("%s notes of %s %q", name, o.GetName(), unknown), func() bool {
				held, ok := objs.Get(objs.DB.Snapshot(), o.GroupVersionKind().GroupKind(), kube.Key(o))
				return ok && kube.UnknownFieldsOf(held).String() == unknown
			})
		}
		problems := objs.AllProblems(objs.DB.Snapshot())
		if len(problems) != 1 || problems[0].Object.Name != grant.GetName() || !strings.Contains(problems[0].Reason, "spec.from[0].name") {
			t.Errorf("%s: problems %v", name, problems)
		}
	}
}
