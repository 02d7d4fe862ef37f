package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
)

const chart = "../chart"

func TestManifestsAreWhatTheChartGives(t *testing.T) {
	for name, set := range manifests {
		want, err := renderManifest(chart, set)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(chart, "..", name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("install/%s is not what the chart gives: make install-manifest", name)
		}
	}
}

// TestValues holds that each value arrives where it is for, and nothing is given where it is off.
func TestValues(t *testing.T) {
	for set, c := range map[string]struct{ has, lacks string }{
		"":                                      {"image: \"ghcr.io/weft-mesh/weft:0.1.0\"", "kind: Namespace"},
		"image.registry=r:5000/x,image.tag=v2":  {"image: \"r:5000/x/weft-controller:v2\"", "ghcr.io"},
		"image.pullSecrets={a,b}":               {"imagePullSecrets:\n        - name: \"a\"\n        - name: \"b\"", ""},
		"image.pullPolicy=Never":                {"imagePullPolicy: Never", "IfNotPresent"},
		"trustDomain=a.example":                 {"--trust-domain=a.example", "cluster.local"},
		"kubernetes.apiServer.host=10.0.0.1":    {"- name: KUBERNETES_SERVICE_HOST\n              value: \"10.0.0.1\"", ""},
		"kubernetes.apiServer.port=6443":        {"", "KUBERNETES_SERVICE_PORT"},
		"cgroup.hostRoot=/x":                    {"hostPath: {path: \"/x\", type: Directory}", "/sys/fs/cgroup"},
		"cni.enabled=false":                     {"", "cni"},
		"cni.confDir=/x,cni.binDir=/y":          {"hostPath: {path: \"/x\"", "path: \"/etc/cni/net.d\""},
		"gatewayClass.create=false":             {"--create-gateway-class=false", "resources: [gatewayclasses]\n    verbs: [create]"},
		"proxy.memoryLimit=512Mi":               {"--memory-limit=536870912", "1073741824"},
		"proxy.maxConnections=2000000":          {"--max-connections=2000000", "e+06"},
		"tunnel.send=false":                     {"- --bytes=hbone\n", "--tunnel"},
		"tunnel.accept=false":                   {"", "--tunnel=false"},
		"tunnel.accept=false,tunnel.send=false": {"- --tunnel=false\n", "- --bytes=tunnel"},
		"controller.replicas=1":                 {"replicas: 1", "PodDisruptionBudget"},
		"metrics.port=15999":                    {"- --metrics-address=:15999\n", "ServiceMonitor"},
		"metrics.port=15998":                    {"prometheus.io/port: \"15998\"\n", "15020"},
		"metrics.annotations=true":              {"prometheus.io/port: \"15023\"\n", ""},
		"metrics.annotations=false":             {"name: weft-agent-metrics", "prometheus.io"},
		"metrics.enabled=false":                 {"- --metrics-address=\n", "prometheus.io"},
		"metrics.enabled=false,metrics.serviceMonitor.create=true":                {"", "-metrics\n"},
		"metrics.serviceMonitor.create=true,metrics.serviceMonitor.labels.team=x": {"path: /metrics/proxy", "prometheus.io"},
		"metrics.prometheusRule.create=true,metrics.prometheusRule.labels.team=x": {"team: x\nspec:\n  # Alerts", "ServiceMonitor"},
		"flows.export.stdout=true":                                {"- --flow-export-stdout\n", "--flow-export-file"},
		"flows.export.stdout=false":                               {"", "flow-export"},
		"flows.export.file.dir=/d":                                {"- --flow-export-file-size=104857600\n", "--flow-export-otlp"},
		"flows.export.file.dir=/d/e":                              {"hostPath: {path: \"/d/e\", type: DirectoryOrCreate}", "--flow-export-stdout"},
		"flows.export.otlp=observability/otel:4317":               {"- --flow-export-otlp=observability/otel:4317\n", "--flow-export-stdout"},
		"flows.export.otlp=o/c:4317,flows.export.tls.secret=otel": {"- --flow-export-otlp-ca=/etc/weft-flow-export/ca.crt\n", "--flow-export-otlp-cert"},
		"flows.export.otlp=o/c:4317,flows.export.tls.secret=otel,flows.export.tls.clientCertificate=true,flows.export.tls.serverName=x": {
			"- --flow-export-otlp-server-name=x\n            - --flow-export-otlp-cert=/etc/weft-flow-export/tls.crt\n", "--flow-export-stdout"},
		"flows.export.tls.secret=otel": {"secret: {secretName: \"otel\", defaultMode: 0400, optional: true}", "--flow-export"},
		"flows.export.filter.verdict={refused,failed},flows.export.filter.namespace={shop}": {"- \"--flow-export-filter=namespace=shop\"\n            - \"--flow-export-filter=verdict=refused,failed\"\n", ""},
		"logLevel=debug": {"--log-level=debug", "--log-level=info"},
		"externalIPs={203.0.113.0/24,2001:db8::/48}":                               {"- --external-ips=203.0.113.0/24,2001:db8::/48", ""},
		"gatewayNodes.node-restriction\\.kubernetes\\.io/edge=yes,gatewayNodes.b=": {"- --gateway-nodes=b=,node-restriction.kubernetes.io/edge=yes\n", ""},
		"gatewayClass.create=true":                                                 {"", "--gateway-nodes"},
		"namespaceShare=40":                                                        {"- --namespace-share=40", "--namespace-share=25"},
		"requestExpressions=1024":                                                  {"- --request-expressions=1024", "--request-expressions=256"},
		"cleanup=true":                                                             {"- cleanup\n", "weft-agent"},
		"metrics.enabled=true,metrics.prometheusRule.create=true":                  {"expr: weft_datapath_missing_hooks > 0", ""},
		"metrics.enabled=false,metrics.prometheusRule.create=true":                 {"", "PrometheusRule"},
		"metrics.dashboards.create=true":                                           {"grafana_dashboard: \"1\"\ndata:\n  weft-service.json: |\n", ""},
		"metrics.dashboards.create=true,metrics.dashboards.annotations.grafana_folder=Weft": {"grafana_folder: Weft", ""},
		"metrics.dashboards.create=false": {"", "dashboard"},
		"metrics.istioNames=true":         {"- --istio-metrics\n", ""},
		"metrics.istioNames=false":        {"- --metrics-address=:15020\n", "istio"},
	} {
		out, err := renderSets(chart, "weft-system", set)
		if err != nil {
			t.Errorf("%s: %v", set, err)
			continue
		}
		if !strings.Contains(string(out), c.has) {
			t.Errorf("%s: %q is missing", set, c.has)
		}
		if c.lacks != "" && strings.Contains(string(out), c.lacks) {
			t.Errorf("%s: %q is there", set, c.lacks)
		}
	}
}

// TestNotes: who has installed the chart is told what to do next, and what is missing in the cluster.
func TestNotes(t *testing.T) {
	notes := func(values map[string]any, kinds ...string) string {
		cluster := common.DefaultCapabilities.Copy()
		cluster.APIVersions = kinds
		files, err := renderFiles(chart, "weft-system", values, cluster)
		if err != nil {
			t.Fatal(err)
		}
		return files["weft/templates/NOTES.txt"]
	}
	for text, want := range map[string][]string{
		notes(nil): {"install/crds", "standard-install.yaml", "weft check", "weft.io/mtls=permissive"},
		notes(nil, "weft.io/v1alpha1", "gateway.networking.k8s.io/v1"): {"weft check", "pod-security.kubernetes.io/enforce=privileged"},
		notes(map[string]any{"cleanup": true}):                         {"daemonset/weft-cleanup", "helm uninstall weft -n weft-system"},
	} {
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%q is missing in\n%s", w, text)
			}
		}
	}
	if text := notes(nil, "weft.io/v1alpha1", "gateway.networking.k8s.io/v1"); strings.Contains(text, "missing") {
		t.Errorf("nothing is missing:\n%s", text)
	}
}

func TestBadValues(t *testing.T) {
	for _, set := range []string{
		"unknown=1", "image.unknown=1", "image.pullPolicy=Sometimes", "trustDomain=Upper", "cgroup.hostRoot=relative",
		"kubernetes.apiServer.port=0", "kubernetes.apiServer.port=https", "proxy.memoryLimit=1GB", "proxy.maxConnections=0",
		"proxy.parentShutdownTime=5", "controller.replicas=0", "logLevel=loud", "metrics.port=0", "cni.enabled=1", "cleanup=1", "externalIPs=1.2.3.4/24", "externalIPs={any}", "gatewayNodes=edge", "gatewayNodes.a=b c", "flows.export.file.dir=relative", "flows.export.file.size=1k", "flows.export.file.count=0",
		"flows.export.otlp=otel:4317", "flows.export.tls.secret=a b", "flows.export.tls.clientCertificate=1", "flows.export.filter.colour={red}", "flows.export.filter.verdict=refused", "namespaceShare=0", "namespaceShare=101", "requestExpressions=0", "requestExpressions=many",
	} {
		if _, err := renderSets(chart, "weft-system", set); err == nil {
			t.Errorf("%s is taken", set)
		}
	}
	if _, err := renderSets(chart, "default"); err == nil || !strings.Contains(err.Error(), "weft-system") {
		t.Errorf("another namespace: %v", err)
	}
}
