package survey

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"github.com/weft-mesh/weft/internal/kube/survey/surveytest"
)

// connect opens a test's API server.
func connect(t *testing.T, s *surveytest.Server) *Cluster {
	t.Helper()
	c, err := of(&rest.Config{Host: s.Start(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.rest.Client.CloseIdleConnections)
	return c
}

// workload returns a DaemonSet or Deployment of Weft.
func workload(name, image string, status object, args ...string) object {
	return object{
		"metadata": object{"name": name, "generation": 2, "labels": object{versionLabel: "0.1.0"}},
		"spec": object{"replicas": 2, "template": object{"spec": object{"containers": []any{
			object{"image": image, "args": args},
		}}}},
		"status": status,
	}
}

func TestInstallation(t *testing.T) {
	const apps = "/apis/apps/v1/namespaces/mesh/"
	c := connect(t, &surveytest.Server{Objects: map[string]any{
		apps + "daemonsets/weft-agent": workload("weft-agent", "r/weft:1", object{
			"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 2, "numberReady": 1,
		}, "agent", "--cni"),
		apps + "deployments/weft-controller": workload("weft-controller", "r/weft-controller:1", object{
			"observedGeneration": 1, "updatedReplicas": 1, "readyReplicas": 2,
		}),
		"/api/v1/namespaces/mesh/pods": []any{
			object{
				"metadata": object{"name": "weft-agent-b", "uid": "u", "labels": object{componentLabel: "agent"}}, "spec": object{"nodeName": "b"},
				"status": object{"phase": "Pending", "conditions": []any{object{"type": "Ready", "status": "False", "message": "containers not ready"}},
					"containerStatuses": []any{object{"state": object{"waiting": object{"reason": "ImagePullBackOff", "message": "no such image"}}}}},
			},
			object{
				"metadata": object{"name": "weft-agent-a", "labels": object{componentLabel: "agent"}}, "spec": object{"nodeName": "a"},
				"status": object{"conditions": []any{object{"type": "Ready", "status": "True"}}},
			},
		},
		"/api/v1/nodes": []any{},
		"/apis/gateway.networking.k8s.io/v1/gatewayclasses": []any{
			object{"metadata": object{"name": "weft"}, "spec": object{"controllerName": "weft.io/x"},
				"status": object{"conditions": []any{object{"type": "Accepted", "status": "False", "reason": "Pending", "message": "wait"}}}},
		},
		"/apis/coordination.k8s.io/v1/namespaces/mesh/leases/weft-controller": object{
			"spec": object{"holderIdentity": "weft-controller-1", "renewTime": "2030-05-01T12:00:00.000000Z"},
		},
		"/apis/networking.k8s.io/v1/networkpolicies": []any{
			object{"metadata": object{"namespace": "shop", "name": "hbone"}, "spec": object{
				"ingress": []any{object{"ports": []any{object{"protocol": "TCP", "port": 15008}}}},
			}},
			object{"metadata": object{"namespace": "shop", "name": "range"}, "spec": object{
				"egress": []any{object{"ports": []any{object{"port": 15000, "endPort": 15020}}}},
			}},
			object{"metadata": object{"namespace": "shop", "name": "others"}, "spec": object{
				"ingress": []any{object{}, object{"ports": []any{object{"port": "http"}, object{"protocol": "UDP", "port": 15008}, object{"port": 80}}}},
			}},
		},
		"/api/v1/namespaces/mesh/configmaps/weft-trust-bundle": object{"data": object{"ca.crt": "PEM"}},
	}})
	got, err := c.Installation(t.Context(), "mesh")
	if err != nil {
		t.Fatal(err)
	}
	got.CRDs = nil // TestEnvironment
	want := Installation{
		Namespace: "mesh",
		Parts: []Part{
			{Kind: "DaemonSet", Name: "weft-agent", Version: "0.1.0", Image: "r/weft:1", Args: []string{"agent", "--cni"}, Observed: true, Want: 3, Updated: 2, Ready: 1},
			{Kind: "Deployment", Name: "weft-controller", Version: "0.1.0", Image: "r/weft-controller:1", Want: 2, Updated: 1, Ready: 2},
		},
		Pods: []Pod{
			{Name: "weft-agent-a", Component: "agent", Node: "a", Ready: true},
			{Name: "weft-agent-b", Component: "agent", Node: "b", UID: "u", Why: "ImagePullBackOff: no such image"},
		},
		Classes:     []Class{{Name: "weft", Controller: "weft.io/x", Why: "Pending: wait"}},
		Leader:      Leader{Holder: "weft-controller-1", Renewed: time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)},
		TrustBundle: "PEM",
		NetworkPolicies: []NetworkPolicy{
			{Namespace: "shop", Name: "hbone", HBONE: true},
			{Namespace: "shop", Name: "range", HBONE: true, Tunnel: true},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What is not there is no error; what may not be read is.
func TestInstallationPartly(t *testing.T) {
	c := connect(t, &surveytest.Server{Objects: map[string]any{
		"/apis/apps/v1/namespaces/mesh/daemonsets/weft-proxy": http.StatusForbidden,
	}})
	got, err := c.Installation(t.Context(), "mesh")
	if len(got.Parts) != 0 || err == nil || !strings.Contains(err.Error(), "weft-proxy: you may not") || strings.Contains(err.Error(), "weft-agent") {
		t.Errorf("%+v, %v", got, err)
	}
}
