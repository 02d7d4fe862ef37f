package survey

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"k8s.io/client-go/rest"

	"github.com/weft-mesh/weft/internal/kube/survey/surveytest"
)

func TestMain(m *testing.M) {
	// It ends with its next tick after the connection, which is seconds.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"))
}

type object = surveytest.Object

func TestEnvironment(t *testing.T) {
	const crdPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"
	c := connect(t, &surveytest.Server{Objects: map[string]any{
		"/version": object{"gitVersion": "v1.37.2"},
		"/api/v1/nodes": []any{
			object{"metadata": surveytest.Meta("", "a", nil, nil), "status": object{
				"nodeInfo":   object{"kernelVersion": "6.18.1", "osImage": "Debian", "containerRuntimeVersion": "containerd://2.1", "operatingSystem": "linux"},
				"conditions": []any{object{"type": "Ready", "status": "True"}},
			}},
			object{"metadata": surveytest.Meta("", "w", nil, nil), "status": object{"nodeInfo": object{"operatingSystem": "windows"}}},
		},
		crdPath + "gateways.gateway.networking.k8s.io": object{
			"metadata": surveytest.Meta("", "x", nil, object{gatewayGroup + "/bundle-version": "v1.7.0", gatewayGroup + "/channel": "standard"}),
			"spec":     object{"versions": []any{object{"name": "v1", "served": true}, object{"name": "v1beta1", "served": false}}},
			"status":   object{"conditions": []any{object{"type": "Established", "status": "True"}}},
		},
		"/apis/apps/v1/daemonsets": []any{
			object{"metadata": surveytest.Meta("kube-system", "kube-proxy", nil, nil)},
			object{"metadata": surveytest.Meta("istio-system", "ztunnel", nil, nil)},
		},
		"/apis/apps/v1/deployments": []any{},
		"/api/v1/namespaces": []any{
			object{"metadata": surveytest.Meta("", "shop", object{"istio.io/dataplane-mode": "ambient"}, nil)},
			object{"metadata": surveytest.Meta("", "plain", nil, nil)},
		},
		"/api/v1/namespaces/kube-system/configmaps/cilium-config": object{"data": object{"kube-proxy-replacement": "true"}},
	}})
	if v, err := c.Version(t.Context()); err != nil || v != "v1.37.2" {
		t.Errorf("%q, %v", v, err)
	}
	e, err := c.Environment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(e.CRDs, func(d CRD) bool { return d.Name == "gateways."+gatewayGroup })
	if len(e.CRDs) != len(gatewayCRDs)+len(experimentalCRDs)+len(weftCRDs) || i < 0 {
		t.Fatalf("CRDs %+v", e.CRDs)
	}
	e.CRDs = e.CRDs[i : i+1]
	want := Environment{
		Nodes:     []Node{{Name: "a", Kernel: "6.18.1", OS: "Debian", Runtime: "containerd://2.1", Linux: true, Ready: true}, {Name: "w"}},
		CRDs:      []CRD{{Name: "gateways." + gatewayGroup, Served: []string{"v1"}, Established: true, Bundle: "v1.7.0", Channel: "standard"}},
		KubeProxy: "kube-system/kube-proxy",
		Meshes:    []OtherMesh{{Name: "Istio", Where: "DaemonSet/istio-system/ztunnel", Namespaces: []string{"shop"}}},
		Cilium:    &Cilium{SocketLB: true},
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Error(diff)
	}
}

// What is forbidden is reported, and the rest is there.
func TestEnvironmentPartly(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/daemonsets") {
			fmt.Fprint(w, `{"items":[{"metadata":{"namespace":"kube-system","name":"kube-proxy"}}]}`)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"you may not"}`)
	}))
	defer s.Close()
	c, err := of(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.rest.Client.CloseIdleConnections()
	e, err := c.Environment(t.Context())
	if e.KubeProxy != "kube-system/kube-proxy" || err == nil || !strings.Contains(err.Error(), "you may not") {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	c, err := of(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const want = "the API server http://127.0.0.1:1 does not answer: dial tcp 127.0.0.1:1: connect: connection refused"
	if _, err := c.Version(ctx); err == nil || absent(err) || err.Error() != want {
		t.Errorf("error %v", err)
	}
	if _, err := c.Installation(ctx, "weft-system"); err == nil || err.Error() != want {
		t.Errorf("one fault, said once: %v", err)
	}
}

func TestOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", file)
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := Open(Options{}); err == nil || !strings.Contains(err.Error(), "--kubeconfig") || Known() {
		t.Errorf("without a kubeconfig: %v", err)
	}
	text := `{"clusters":[{"name":"c","cluster":{"server":"https://192.0.2.1:6443"}}],"contexts":[{"name":"x","context":{"cluster":"c"}}],"current-context":"x"}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(Options{})
	if err != nil || c.Host() != "https://192.0.2.1:6443" || !Known() {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := Open(Options{Context: "y"}); err == nil {
		t.Error("a context that is not there is taken")
	}
}
