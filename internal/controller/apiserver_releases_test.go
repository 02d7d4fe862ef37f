//go:build cluster

package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/weft-mesh/weft/internal/check"
	"github.com/weft-mesh/weft/internal/kube"
	kubecluster "github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/kube/survey"
	"github.com/weft-mesh/weft/internal/state"
)

// release is a release of the Gateway API with what is to be seen of it.
type release struct {
	version, channel string
	// routes are the versions in which the routes of connections and datagrams are written; those of HTTPRoute and GRPCRoute are v1.
	routes map[string][]string
	// without are features that weft check names as left out, or kinds; with are some that it must not name.
	without, with []string
}

var (
	alpha = map[string][]string{"TLSRoute": {"v1alpha2", "v1alpha3"}, "TCPRoute": {"v1alpha2"}, "UDPRoute": {"v1alpha2"}}
	beta  = map[string][]string{"TLSRoute": {"v1", "v1alpha2", "v1alpha3"}, "TCPRoute": {"v1alpha2"}, "UDPRoute": {"v1alpha2"}}
	all   = map[string][]string{"TLSRoute": {"v1", "v1alpha2", "v1alpha3"}, "TCPRoute": {"v1", "v1alpha2"}, "UDPRoute": {"v1", "v1alpha2"}}
	one   = map[string][]string{"TLSRoute": {"v1"}, "TCPRoute": {"v1"}, "UDPRoute": {"v1"}}
)

var releases = []release{
	{"v1.4.1", "standard", nil, []string{"tlsroutes", "tcproutes", "udproutes", "listenersets", "HTTPRouteCORS", "HTTPRouteRetryCodes", "GatewayBackendClientCertificate"}, nil},
	{"v1.4.1", "experimental", alpha, []string{"listenersets"}, []string{"tlsroutes", "TLSRoute", "TCPRoute", "HTTPRouteCORS"}},
	{"v1.5.1", "standard", map[string][]string{"TLSRoute": {"v1"}}, []string{"tcproutes", "udproutes", "HTTPRouteRetryCodes"}, []string{"ListenerSet", "HTTPRouteCORS"}},
	{"v1.5.1", "experimental", beta, nil, []string{"TLSRoute", "TCPRoute", "UDPRoute", "ListenerSet", "HTTPRouteRetryCodes"}},
	{"v1.6.1", "standard", one, nil, []string{"TLSRoute", "TCPRoute", "UDPRoute", "ListenerSet"}},
	{"v1.6.1", "experimental", all, nil, []string{"TLSRoute", "TCPRoute", "UDPRoute", "ListenerSet", "HTTPRouteRetryCodes"}},
	{"v1.7.0", "standard", one, nil, []string{"TLSRoute", "TCPRoute", "UDPRoute", "ListenerSet"}},
	{"v1.7.0", "experimental", all, nil, []string{"TLSRoute", "TCPRoute", "UDPRoute", "ListenerSet", "HTTPRouteRetryCodes"}},
}

// crds are the CRDs of a channel of a release, from the module of the release.
func (r release) crds(t *testing.T) (paths []string) {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", "sigs.k8s.io/gateway-api@"+r.version)
	cmd.Dir = t.TempDir()
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(text, &module); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(module.Dir, "config/crd", r.channel, "gateway.networking.*s.io_*.yaml"))
	if err != nil || len(files) < 6 {
		t.Fatalf("%d CRDs in %s: %v", len(files), module.Dir, err)
	}
	for _, f := range files {
		if !strings.Contains(f, "_vap_") {
			paths = append(paths, f)
		}
	}
	return paths
}

// apply makes or changes CRDs, and returns them.
func (w *world) apply(paths []string) (out []*unstructured.Unstructured) {
	w.Helper()
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			w.Fatal(err)
		}
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &o.Object); err != nil {
			w.Fatal(err)
		}
		if _, err := w.resource(o).Apply(w.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
			w.Fatalf("%s: %v", p, err)
		}
		out = append(out, o)
	}
	return out
}

// agentOf runs what an agent reads until the test ends, or stop is called.
func (w *world) agentOf() (objs *kube.Objects, c *kubecluster.Cluster, stop func()) {
	objs = kube.NewObjects(state.NewDB())
	c = kubecluster.New(w.as("agent"), objs, kubecluster.Options{Log: slog.New(slog.NewTextHandler(w.Output(), nil))})
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return objs, c, func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	}
}

const manyProtocols = `{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: default}, spec: {gatewayClassName: weft, listeners: [
  {name: http, port: 80, protocol: HTTP}, {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}, {name: tcp, port: 81, protocol: TCP}, {name: udp, port: 53, protocol: UDP}]}}`

// routesOf are a route of each kind that a release has, in each version that it serves.
func (r release) routesOf() []string {
	out := []string{
		route("http", ""),
		`{apiVersion: gateway.networking.k8s.io/v1beta1, kind: HTTPRoute, metadata: {name: http-beta, namespace: default},
  spec: {parentRefs: [{name: gw, sectionName: http}], hostnames: [beta.example], rules: [{backendRefs: [{name: s, port: 80}]}]}}`,
		`{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: grpc, namespace: default},
  spec: {parentRefs: [{name: gw, sectionName: http}], hostnames: [grpc.example], rules: [{backendRefs: [{name: s, port: 80}]}]}}`,
	}
	for kind, versions := range r.routes {
		for _, v := range versions {
			section, hostnames, backend := strings.ToLower(strings.TrimSuffix(kind, "Route")), "", "{name: s, port: 80}"
			if kind == "TLSRoute" {
				hostnames = "hostnames: [" + v + ".example], "
			}
			if kind == "UDPRoute" {
				backend = "{name: s, port: 53}"
			}
			out = append(out, fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/%s, kind: %s, metadata: {name: %s-%s, namespace: default},
  spec: {parentRefs: [{name: gw, sectionName: %s}], %srules: [{backendRefs: [%s]}]}}`, v, kind, section, v, section, hostnames, backend))
		}
	}
	return out
}

const serviceOfAll = `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: default}, spec: {selector: {app: s}, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}}`

// checked returns what weft check says of the CRDs.
func (w *world) checked() check.Result {
	w.Helper()
	c, err := survey.Open(survey.Options{Kubeconfig: w.api.Kubeconfig})
	if err != nil {
		w.Fatal(err)
	}
	for _, r := range check.Cluster(w.Context(), c) {
		if r.Name == "Gateway API" {
			return r
		}
	}
	w.Fatal("weft check says nothing of the Gateway API")
	return check.Result{}
}

// TestReleasesOfTheGatewayAPI starts the sources of a controller and of an agent with the CRDs of releases, reads routes of all kinds in
// the versions that these serve, and writes their statuses.
func TestReleasesOfTheGatewayAPI(t *testing.T) {
	w := newWorld(t)
	w.install("../../install/crds/weft.io_addresspools.yaml", "../../install/crds/weft.io_authorizationpolicies.yaml")
	w.create(serviceOfAll)
	w.create(pool)
	for _, r := range releases {
		t.Run(r.version+" "+r.channel, func(t *testing.T) {
			w := &world{t, w.api, w.cfg, w.dyn}
			crds := w.apply(r.crds(t))
			c, stop := w.start("controller")
			objs, agent, stopAgent := w.agentOf()
			w.until("both have read all", func() bool { return closed(c.Ready()) && closed(agent.Loaded()) })
			classObj := w.object(class)
			w.until("the class is there", func() bool { return w.exists(classObj) && condition(w.get(classObj), "Accepted") == "True Accepted" })
			gwObj := w.create(manyProtocols)
			var routes []*unstructured.Unstructured
			for _, text := range r.routesOf() {
				routes = append(routes, w.create(text))
			}
			w.until("the Gateway has an address", func() bool { return condition(w.get(gwObj), "Programmed") == "True Programmed" })
			for _, o := range routes {
				w.until(o.GetKind()+" "+o.GetName()+" has a status", func() bool { return condition(w.get(o), "Accepted") == "True Accepted" })
				w.until(o.GetKind()+" "+o.GetName()+" is held by an agent", func() bool {
					_, ok := objs.Get(objs.DB.Snapshot(), o.GroupVersionKind().GroupKind(), kube.Key(o))
					return ok
				})
			}
			if problems := append(objs.AllProblems(objs.DB.Snapshot()), c.objs.AllProblems(c.st.Snapshot())...); len(problems) > 0 {
				t.Errorf("problems: %v", problems)
			}
			said := w.checked()
			t.Logf("weft check: %s: %s", said.Level, said.Found)
			for _, name := range r.without {
				if !strings.Contains(said.Found, name) {
					t.Errorf("weft check does not name %s", name)
				}
			}
			_, left, _ := strings.Cut(said.Found, "no fields for")
			for _, name := range r.with {
				if strings.Contains(left, name) {
					t.Errorf("weft check names %s", name)
				}
			}
			if said.Level != check.OK {
				t.Errorf("weft check: %+v", said)
			}
			stop()
			stopAgent()
			w.removeCRDs(crds)
		})
	}
	t.Run("an upgrade", func(t *testing.T) { upgradeOfTheGatewayAPI(&world{t, w.api, w.cfg, w.dyn}) })
}

// removeCRDs deletes CRDs with their objects.
func (w *world) removeCRDs(crds []*unstructured.Unstructured) {
	w.Helper()
	for _, o := range crds {
		if err := w.resource(o).Delete(w.Context(), o.GetName(), metav1.DeleteOptions{}); err != nil {
			w.Fatal(err)
		}
	}
	w.until("the CRDs are gone", func() bool {
		return !slices.ContainsFunc(crds, w.exists)
	})
}

// upgradeOfTheGatewayAPI: the versions that were served are not any more. What is there stays, and what comes is read.
func upgradeOfTheGatewayAPI(w *world) {
	older, newer := release{version: "v1.4.1", channel: "experimental", routes: alpha}, release{version: "v1.7.0", channel: "standard"}
	w.apply(older.crds(w.T))
	c, stop := w.start("controller")
	objs, _, stopAgent := w.agentOf()
	gwObj := w.create(manyProtocols)
	var routes []*unstructured.Unstructured
	held := func(o *unstructured.Unstructured) bool {
		_, ok := objs.Get(objs.DB.Snapshot(), o.GroupVersionKind().GroupKind(), kube.Key(o))
		return ok
	}
	for _, text := range older.routesOf() {
		o := w.create(text)
		routes = append(routes, o)
		w.until(o.GetName()+" is held and has a status", func() bool { return condition(w.get(o), "Accepted") == "True Accepted" && held(o) })
	}
	newer.routes = one
	crds := w.apply(newer.crds(w.T))
	for _, text := range newer.routesOf() {
		o := w.object(text)
		if o.GetAPIVersion() != gwObj.GetAPIVersion() || o.GetKind() == "HTTPRoute" || o.GetKind() == "GRPCRoute" {
			continue
		}
		o = w.create(text)
		w.until(o.GetName()+" is held and has a status", func() bool { return condition(w.get(o), "Accepted") != "" && held(o) })
	}
	for _, o := range routes {
		if !held(o) {
			w.Errorf("%s %s is lost", o.GetKind(), o.GetName())
		}
	}
	w.until("nothing is wrong", func() bool {
		return len(objs.AllProblems(objs.DB.Snapshot())) == 0 && len(c.objs.AllProblems(c.st.Snapshot())) == 0
	})
	stop()
	stopAgent()
	w.removeCRDs(crds)
}
