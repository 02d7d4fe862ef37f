//go:build cluster

package controller

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

func (w *world) patch(o *unstructured.Unstructured, patch string, sub ...string) {
	w.Helper()
	if _, err := w.resource(o).Patch(w.Context(), o.GetName(), types.MergePatchType, []byte(patch), metav1.PatchOptions{}, sub...); err != nil {
		w.Fatal(err)
	}
}

func (w *world) remove(o *unstructured.Unstructured) {
	w.Helper()
	if err := w.resource(o).Delete(w.Context(), o.GetName(), metav1.DeleteOptions{}); err != nil {
		w.Fatal(err)
	}
}

func gatewayNamed(name, class string) string {
	return fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: %s, namespace: default},
  spec: {gatewayClassName: %s, listeners: [{name: http, port: 80, protocol: HTTP}]}}`, name, class)
}

func serviceNamed(name string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: default}, spec: {ports: [{port: 80}]}}`, name)
}

// servicesOfGateways: one a Gateway, in step with it, and never somebody else's. address is that of Gateway gw.
func servicesOfGateways(w *world, gw *unstructured.Unstructured, address string) {
	svc := w.object(serviceNamed(gw.GetName() + "-weft"))
	w.until("the Service has the Gateway's address", func() bool {
		if !w.exists(svc) {
			return false
		}
		ingress, _, _ := unstructured.NestedSlice(w.get(svc).Object, "status", "loadBalancer", "ingress")
		return len(ingress) == 1 && fmt.Sprint(ingress[0]) == "map[ip:"+address+" ipMode:Proxy]"
	})
	made := w.get(svc)
	if made.GetLabels()["gateway.networking.k8s.io/gateway-name"] != gw.GetName() || made.GetOwnerReferences()[0].UID != w.get(gw).GetUID() {
		w.Errorf("metadata of the Service is %v", made.Object["metadata"])
	}

	w.patch(svc, `{"metadata":{"labels":{"other":"x"},"annotations":{"other":"y"}}}`)
	w.patch(gw, `{"spec":{"infrastructure":{"labels":{"a":"1","b":"2"},"annotations":{"c":"3"}}}}`)
	w.until("labels come", func() bool {
		s := w.get(svc)
		return s.GetLabels()["a"] == "1" && s.GetLabels()["b"] == "2" && s.GetAnnotations()["c"] == "3"
	})
	w.patch(svc, `{"metadata":{"labels":{"a":null}}}`)
	w.until("a label that somebody takes away comes back", func() bool { return w.get(svc).GetLabels()["a"] == "1" })
	w.patch(gw, `{"spec":{"infrastructure":{"labels":{"b":null},"annotations":null}}}`)
	w.until("labels go", func() bool {
		s := w.get(svc)
		return s.GetLabels()["a"] == "1" && s.GetLabels()["b"] == "" && s.GetAnnotations()["c"] == ""
	})
	if s := w.get(svc); s.GetLabels()["other"] != "x" || s.GetAnnotations()["other"] != "y" || s.GetUID() != made.GetUID() {
		w.Errorf("what somebody else wrote is not kept: %v", s.Object["metadata"])
	}

	theirs := w.create(serviceNamed("taken-weft"))
	taken := w.create(gatewayNamed("taken", "weft"))
	w.until("the Gateway tells of the other's Service", func() bool {
		return condition(w.get(taken), "weft.io/ServiceReady") == "False NameInUse" && condition(w.get(taken), "Programmed") == "True Programmed"
	})
	if s := w.get(theirs); s.GetResourceVersion() != theirs.GetResourceVersion() {
		w.Errorf("somebody else's Service was written: %v", s.Object)
	}
	w.remove(theirs)
	w.until("the Service is made when the name is free", func() bool {
		return w.exists(theirs) && len(w.get(theirs).GetOwnerReferences()) == 1 && condition(w.get(taken), "weft.io/ServiceReady") == ""
	})

	w.create(`{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: other}, spec: {controllerName: other.example/c}}`)
	w.patch(taken, `{"spec":{"gatewayClassName":"other"}}`)
	w.until("the Service goes with the class", func() bool { return !w.exists(theirs) })
	w.patch(taken, `{"spec":{"gatewayClassName":"weft"}}`)
	w.until("it comes back", func() bool { return w.exists(theirs) })
	w.remove(taken)
	w.until("it goes with the Gateway", func() bool { return !w.exists(theirs) })
}
