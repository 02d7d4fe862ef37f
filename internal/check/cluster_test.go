package check

import (
	"errors"
	"testing"

	"github.com/weft-mesh/weft/internal/kube/survey"
)

// gatewayCRDs gives the Gateway API's CRDs of a release.
func gatewayCRDs(bundle, channel string, names ...string) []survey.CRD {
	if names == nil {
		names = []string{"gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants"}
	}
	var out []survey.CRD
	for _, n := range names {
		out = append(out, survey.CRD{Name: n + gatewaySuffix, Served: []string{"v1"}, Read: true, Established: true, Bundle: bundle, Channel: channel})
	}
	return out
}

func TestPreflight(t *testing.T) {
	node := []survey.Node{{Name: "b", Kernel: "6.18.1", Linux: true}, {Name: "a", Kernel: "6.18.1", Linux: true}}
	late := gatewayCRDs("v1.7.0", "standard")
	late[1].Established = false
	mixed := append(gatewayCRDs("v1.7.0", "standard"), gatewayCRDs("v1.2.0", "standard", "tlsroutes")...)
	bare := gatewayCRDs("v1.4.1", "standard")
	for i := range bare {
		bare[i].HasField = func(path string) bool { return path == "" }
	}
	beta := gatewayCRDs("v0.8.0", "standard")
	beta[2].Served, beta[2].Read = []string{"v1alpha1"}, false
	for _, c := range []struct {
		name  string
		e     survey.Environment
		err   error
		line  string
		level Level
		text  string
	}{
		{"kernels", survey.Environment{Nodes: node}, nil, "kernel of a, b", OK, "6.18.1"},
		{"an old node", survey.Environment{Nodes: append(node, survey.Node{Name: "c", Kernel: "4.19.0", Linux: true})}, nil, "kernel of c", Fail, "4.19.0"},
		{"no node", survey.Environment{Nodes: []survey.Node{{Name: "w"}}}, nil, "nodes", Fail, "no Linux node"},
		{"no CRDs", survey.Environment{CRDs: []survey.CRD{{Name: "gateways" + gatewaySuffix}}}, nil, "Gateway API", Warn, "kubectl apply"},
		{"CRDs", survey.Environment{CRDs: gatewayCRDs("v1.7.0", "experimental")}, nil, "Gateway API", OK, "v1.7.0 experimental"},
		{"CRDs without those of an extended kind", survey.Environment{CRDs: append(gatewayCRDs("v1.4.1", "standard"), survey.CRD{Name: "listenersets" + gatewaySuffix})}, nil, "Gateway API", OK, "left out: listenersets"},
		{"CRDs without fields", survey.Environment{CRDs: bare}, nil, "Gateway API", OK, "features: GRPCRouteNamedRouteRule, GatewayBackend"},
		{"some CRDs", survey.Environment{CRDs: append(gatewayCRDs("v1.7.0", "standard", "gateways"), survey.CRD{Name: "httproutes" + gatewaySuffix})}, nil, "Gateway API", Warn, "not there: httproutes"},
		{"CRDs that come", survey.Environment{CRDs: late}, nil, "Gateway API", Fail, "not established: gateways"},
		{"two releases", survey.Environment{CRDs: mixed}, nil, "Gateway API", Warn, "v1.2.0 standard, v1.7.0 standard"},
		{"old CRDs", survey.Environment{CRDs: beta}, nil, "Gateway API", Warn, "served that is read: httproutes"},
		{"CRDs of nowhere", survey.Environment{CRDs: gatewayCRDs("", "")}, nil, "Gateway API", Warn, "unknown version"},
		{"no telemetry policies", survey.Environment{CRDs: []survey.CRD{{Name: telemetryCRD}}}, nil, "XTelemetryPolicy", OK, "not installed"},
		{"telemetry policies", survey.Environment{CRDs: []survey.CRD{{Name: telemetryCRD, Served: []string{"v1alpha1"}, Established: true, Bundle: "v1.7.0"}}}, nil, "XTelemetryPolicy", OK, "v1.7.0"},
		{"telemetry policies that come", survey.Environment{CRDs: []survey.CRD{{Name: telemetryCRD, Served: []string{"v1alpha1"}}}}, nil, "XTelemetryPolicy", Fail, "not established"},
		{"telemetry policies of another version", survey.Environment{CRDs: []survey.CRD{{Name: telemetryCRD, Served: []string{"v1beta1"}, Established: true}}}, nil, "XTelemetryPolicy", Warn, "v1beta1"},
		{"kube-proxy", survey.Environment{KubeProxy: "kube-system/kube-proxy"}, nil, "kube-proxy", OK, "kube-system/kube-proxy"},
		{"no kube-proxy", survey.Environment{}, nil, "kube-proxy", OK, "none"},
		{"Cilium at the socket", survey.Environment{Cilium: &survey.Cilium{SocketLB: true}}, nil, "Cilium", Fail, "hostNamespaceOnly"},
		{"Cilium beside", survey.Environment{Cilium: &survey.Cilium{SocketLB: true, HostOnly: true}}, nil, "Cilium", OK, "alone"},
		{"another mesh", survey.Environment{Meshes: []survey.OtherMesh{{Name: "Istio", Where: "DaemonSet/istio-system/ztunnel"}}}, nil, "Istio", Warn, "no namespace is in it"},
		{"a clash", survey.Environment{Meshes: []survey.OtherMesh{{Name: "Linkerd", Where: "Deployment/linkerd/x", Namespaces: []string{"shop"}}}}, nil, "Linkerd", Fail, "takes the pods of shop"},
		{"no other mesh", survey.Environment{}, nil, "other meshes", OK, "none"},
		{"not allowed", survey.Environment{}, errors.New("forbidden"), "what can be read", Warn, "forbidden"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := preflight("https://api:6443", "v1.37.2", c.e, c.err)
			expect(t, all, "API server", OK, "v1.37.2")
			expect(t, all, c.line, c.level, c.text)
			for _, r := range all {
				if r.Level != OK && r.Remedy == "" {
					t.Errorf("%s: no remedy", r.Name)
				}
			}
		})
	}
}

func TestSome(t *testing.T) {
	if got := some([]string{"d", "b", "a", "c", "e"}); got != "a, b, c and 2 more" {
		t.Error(got)
	}
}
