package pods

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkChangedRoute measures what a change of an HTTPRoute costs the agent of a cluster's node: the milliseconds of CPU for
// each change, beyond what the agent spends anyway. As in a cluster each change comes as two events, the object and then its
// status, which the controller writes. Nobody calls the Service, so Envoy is not sent the route.
//
//	go test -run - -bench ChangedRoute -benchtime 300x ./test/pods
func BenchmarkChangedRoute(b *testing.B) {
	n := newNode(b)
	defer n.clean()
	n.api.custom.Store(true)
	n.api.namespace("shop", "permissive")
	n.api.service("shop", "s", "10.96.0.10")
	n.api.put("httproutes", "shop/r", route(0, 0))
	n.start()
	n.ready()
	n.settle()
	const rest = 10 * time.Second
	before, began := n.cpuTime(), time.Now()
	time.Sleep(rest)
	idle := float64(n.cpuTime()-before) / float64(time.Since(began))
	b.ResetTimer()
	before, began = n.cpuTime(), time.Now()
	for i := range b.N {
		n.api.put("httproutes", "shop/r", route(i+1, i))
		time.Sleep(10 * time.Millisecond)
		n.api.put("httproutes", "shop/r", route(i+1, i+1))
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(time.Second) // the last one is translated
	b.StopTimer()
	spent := float64(n.cpuTime()-before) - idle*float64(time.Since(began))
	b.ReportMetric(spent/1e6/float64(b.N), "cpu-ms/change")
	b.ReportMetric(idle*1e3, "idle-cpu-ms/s")
	b.ReportMetric(0, "ns/op")
}

// service makes a Service with one endpoint.
func (s *apiServer) service(namespace, name, ip string) {
	port := map[string]any{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}
	s.put("services", namespace+"/"+name, object{
		"kind": "Service", "apiVersion": "v1", "metadata": map[string]any{"namespace": namespace, "name": name},
		"spec": map[string]any{"clusterIP": ip, "clusterIPs": []string{ip}, "type": "ClusterIP", "sessionAffinity": "None", "ports": []any{port}},
	})
	s.put("endpointslices", namespace+"/"+name+"-1", object{
		"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
		"metadata":  map[string]any{"namespace": namespace, "name": name + "-1", "labels": map[string]any{"kubernetes.io/service-name": name}},
		"ports":     []any{map[string]any{"name": "http", "protocol": "TCP", "port": 8080}},
		"endpoints": []any{map[string]any{"addresses": []string{"10.244.9.9"}, "conditions": map[string]any{"ready": true}}},
	})
}

// route is an HTTPRoute of a generation, whose status is of a generation too, with the metadata that an API server keeps.
func route(generation, observed int) object {
	owned := func(manager, subresource, fields string) map[string]any {
		return map[string]any{
			"manager": manager, "operation": "Update", "subresource": subresource, "apiVersion": "gateway.networking.k8s.io/v1",
			"time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": map[string]any{"f:" + fields: map[string]any{".": map[string]any{}, "f:rules": map[string]any{}, "f:parentRefs": map[string]any{}}},
		}
	}
	parent := map[string]any{"group": "", "kind": "Service", "name": "s", "port": 80}
	condition := func(kind string) map[string]any {
		return map[string]any{
			"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": observed,
		}
	}
	return object{
		"kind": "HTTPRoute", "apiVersion": "gateway.networking.k8s.io/v1",
		"metadata": map[string]any{
			"namespace": "shop", "name": "r", "uid": "00000000-0000-4000-8000-000000000001", "generation": generation,
			"creationTimestamp": "2026-01-01T00:00:00Z",
			"annotations":       map[string]any{"kubectl.kubernetes.io/last-applied-configuration": fmt.Sprintf("%0300d", 0)},
			"managedFields":     []any{owned("kubectl", "", "spec"), owned("weft-controller", "status", "status")},
		},
		"spec": map[string]any{
			"parentRefs": []any{parent},
			"rules": []any{map[string]any{
				"matches":     []any{map[string]any{"path": map[string]any{"type": "PathPrefix", "value": "/"}}},
				"backendRefs": []any{map[string]any{"group": "", "kind": "Service", "name": "s", "port": 80, "weight": generation%97 + 1}},
			}},
		},
		"status": map[string]any{"parents": []any{map[string]any{
			"parentRef": parent, "controllerName": "weft.io/controller", "conditions": []any{condition("Accepted"), condition("ResolvedRefs")},
		}}},
	}
}
