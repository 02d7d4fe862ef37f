//go:build cluster

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/weft-mesh/weft/internal/kube"
	kubecluster "github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/test/cluster"
)

// world is a real API server and a client of it.
type world struct {
	*testing.T
	api *cluster.API
	cfg *rest.Config
	dyn dynamic.Interface
}

func newWorld(t *testing.T) *world {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute) // it may have to be built
	defer cancel()
	api, err := cluster.APIServer(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	cfg, err := kubecluster.Config(api.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	admin := rest.CopyConfig(cfg)
	admin.QPS, admin.Burst = 1000, 1000
	w := &world{t, api, cfg, dynamic.NewForConfigOrDie(admin)}
	w.grant()
	return w
}

// until waits for a condition.
func (w *world) until(what string, ok func() bool) {
	w.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.Fatalf("not within a minute: %s", what)
}

func (w *world) resource(o *unstructured.Unstructured) dynamic.ResourceInterface {
	gvr, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	switch o.GetKind() {
	case "Gateway":
		gvr.Resource = "gateways"
	case "XMesh":
		gvr.Resource = "xmeshes"
	}
	if o.GetNamespace() == "" {
		return w.dyn.Resource(gvr)
	}
	return w.dyn.Resource(gvr).Namespace(o.GetNamespace())
}

func (w *world) object(text string) *unstructured.Unstructured {
	w.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		w.Fatal(err)
	}
	return o
}

// create makes an object. A CRD that was just installed is served a moment later.
func (w *world) create(text string) *unstructured.Unstructured {
	w.Helper()
	o := w.object(text)
	var made *unstructured.Unstructured
	var err error
	for range 100 {
		made, err = w.resource(o).Create(w.Context(), o, metav1.CreateOptions{FieldManager: "test"})
		if err == nil {
			return made
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.Fatalf("create %s %s: %v", o.GetKind(), o.GetName(), err)
	return nil
}

func (w *world) get(o *unstructured.Unstructured) *unstructured.Unstructured {
	w.Helper()
	got, err := w.resource(o).Get(w.Context(), o.GetName(), metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return got
}

func (w *world) exists(o *unstructured.Unstructured) bool {
	w.Helper()
	_, err := w.resource(o).Get(w.Context(), o.GetName(), metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		w.Fatal(err)
	}
	return err == nil
}

func (w *world) install(paths ...string) {
	w.Helper()
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			w.Fatal(err)
		}
		w.create(string(b))
	}
}

// condition returns status and reason of a condition among a list at a path of the status.
func condition(o *unstructured.Unstructured, kind string) string {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	if parents, ok, _ := unstructured.NestedSlice(o.Object, "status", "parents"); ok {
		for _, p := range parents {
			if p := p.(map[string]any); p["controllerName"] == "weft.io/gateway-controller" {
				list = p["conditions"].([]any)
			}
		}
	}
	for _, c := range list {
		if c := c.(map[string]any); c["type"] == kind {
			return fmt.Sprint(c["status"], " ", c["reason"])
		}
	}
	return ""
}

func crdsOfTheGatewayAPI(t *testing.T, kinds ...string) []string {
	dir := gatewayAPI(t)
	var out []string
	for _, k := range kinds {
		group := "gateway.networking.k8s.io"
		if strings.HasPrefix(k, "x") {
			group = "gateway.networking.x-k8s.io"
		}
		out = append(out, dir+"/config/crd/experimental/"+group+"_"+k+".yaml")
	}
	return out
}

const (
	class = `{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: weft}, spec: {controllerName: weft.io/gateway-controller}}`
	mesh  = `{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XMesh, metadata: {name: weft}}`
	pool  = `{apiVersion: weft.io/v1alpha1, kind: AddressPool, metadata: {name: pool}, spec: {addresses: [192.0.2.0/28]}}`
	gw    = `{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gw, namespace: default},
  spec: {gatewayClassName: weft, listeners: [{name: http, port: 80, protocol: HTTP}]}}`
	service = `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: default, annotations: {big: text}}, spec: {selector: {app: s}, ports: [{port: 80}]}}`
)

func route(name, rest string) string {
	return `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: ` + name + `, namespace: default},
  spec: {parentRefs: [{name: gw}], hostnames: [` + name + `.example], rules: [{backendRefs: [{name: s, port: 80}]` + rest + `}]}}`
}

// start runs a controller until the function that it gives is called.
func (w *world) start(identity string, change ...func(*Config)) (*Controller, func()) {
	w.Helper()
	cfg := Config{
		Kube: w.as("controller"), Defaults: true, TrustDomain: "cluster.local", Identity: identity, Namespace: namespace,
		Election: Election{Lease: 3 * time.Second, Renew: 2 * time.Second, Retry: 500 * time.Millisecond},
		Log:      slog.New(slog.NewTextHandler(w.Output(), nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop := func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.Errorf("controller %s: %v", identity, err)
			}
			done <- nil
		case <-time.After(time.Minute):
			w.Errorf("controller %s does not end", identity)
		}
	}
	w.Cleanup(stop)
	return c, stop
}

// TestController proves the controller against a real API server, as one story, for a server costs seconds to start.
func TestController(t *testing.T) {
	w := newWorld(t)
	first, stopFirst := w.start("first")
	w.until("leads without any CRD", func() bool { return closed(first.leads) })

	// CRDs come after the controller.
	w.install(crdsOfTheGatewayAPI(t, "gatewayclasses", "xmeshes", "gateways", "listenersets", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes", "referencegrants")...)
	w.install("../../install/crds/weft.io_addresspools.yaml", "../../install/crds/weft.io_authorizationpolicies.yaml")
	w.create(`{apiVersion: v1, kind: Namespace, metadata: {name: default-2}}`)
	w.create(service)
	classObj, meshObj := w.object(class), w.object(mesh)
	w.until("the class and the mesh are created", func() bool { return w.exists(classObj) && w.exists(meshObj) })
	poolObj, gwObj := w.create(pool), w.create(gw)
	good, bad := w.create(route("good", "")), w.create(route("bad", `, filters: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}]`))
	w.until("statuses", func() bool {
		return condition(w.get(classObj), "Accepted") == "True Accepted" && condition(w.get(poolObj), "Accepted") == "True Accepted" &&
			condition(w.get(gwObj), "Programmed") == "True Programmed" && condition(w.get(good), "Accepted") == "True Accepted" &&
			condition(w.get(bad), "ResolvedRefs") == "False InvalidKind"
	})
	addrs, _, _ := unstructured.NestedSlice(w.get(gwObj).Object, "status", "addresses")
	if len(addrs) != 1 || addrs[0].(map[string]any)["value"] != "192.0.2.0" {
		t.Errorf("addresses of the Gateway are %v", addrs)
	}
	w.until("status of the mesh", func() bool { return condition(w.get(meshObj), "Accepted") == "True Accepted" })
	t.Run("features of the installed CRDs", func(*testing.T) { supportedFeaturesOf(w, classObj, meshObj) })
	t.Run("a class that is deleted comes back", func(t *testing.T) {
		if err := w.resource(classObj).Delete(t.Context(), "weft", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.until("the class is there again", func() bool {
			return w.exists(classObj) && condition(w.get(classObj), "Accepted") == "True Accepted"
		})
	})
	t.Run("policy", func(*testing.T) { policies(w) })
	t.Run("newer policies", func(*testing.T) { newerPolicies(w, first) })
	t.Run("Services of Gateways", func(*testing.T) { servicesOfGateways(w, gwObj, "192.0.2.0") })
	t.Run("others' conditions", func(*testing.T) { others(w, good) })
	t.Run("telemetry policies", func(*testing.T) { telemetryPolicies(w) })

	// A second replica waits, takes over, and writes nothing that is written already.
	second, stopSecond := w.start("second")
	w.until("second is ready", func() bool { return closed(second.Ready()) })
	before := []*unstructured.Unstructured{w.get(classObj), w.get(poolObj), w.get(gwObj), w.get(good), w.get(bad)}
	if closed(second.leads) {
		t.Error("two lead")
	}
	stopFirst()
	w.until("second leads", func() bool { return closed(second.leads) })
	late := w.create(route("late", ""))
	w.until("second writes", func() bool { return condition(w.get(late), "Accepted") == "True Accepted" })
	for _, o := range before {
		// attachedRoutes of the Gateway is another since late came.
		if got := w.get(o); got.GetResourceVersion() != o.GetResourceVersion() && o.GetKind() != "Gateway" {
			t.Errorf("%s %s was written again", o.GetKind(), o.GetName())
		}
	}

	t.Run("outage", func(*testing.T) { outage(w, second, good, late) })
	t.Run("many routes", func(*testing.T) { many(w) })
	stopSecond()
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// policies: the API server refuses what the schema tells, the rest is judged here.
func policies(w *world) {
	p := w.create(`{apiVersion: weft.io/v1alpha1, kind: AuthorizationPolicy, metadata: {name: p, namespace: default},
  spec: {action: ALLOW, targetRefs: [{kind: Pod, selector: {matchLabels: {app: s}}}], rules: [{sources: [{type: Namespace, namespace: default}]}]}}`)
	w.until("policy", func() bool { return condition(w.get(p), "Accepted") == "True Accepted" })
	for _, spec := range []string{
		`{action: DENY}`,
		`{action: ALLOW, targetRefs: [{kind: Pod, name: x}]}`,
		`{action: ALLOW, targetRefs: [{kind: Service}]}`,
		`{action: ALLOW, rules: [{sources: [{type: Namespace, spiffe: "spiffe://a/b"}]}]}`,
		`{action: ALLOW, rules: [{http: [{paths: [{value: a}]}]}]}`,
		`{action: ALLOW, rules: [{networkAttributes: {ports: [0]}}]}`,
	} {
		o := w.object(`{apiVersion: weft.io/v1alpha1, kind: AuthorizationPolicy, metadata: {name: refused, namespace: default}, spec: ` + spec + `}`)
		if _, err := w.resource(o).Create(w.Context(), o, metav1.CreateOptions{}); err == nil {
			w.Errorf("the API server takes %s", spec)
		}
	}
}

// newerPolicies: the CRD is newer than this program. A policy with a field that only the CRD has is refused and allows
// nothing; the others stay as they were.
func newerPolicies(w *world, c *Controller) {
	crd := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}}
	patch := `[{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/when", "value": {"type": "string"}}]`
	if _, err := w.resource(crd).Patch(w.Context(), "authorizationpolicies.weft.io", types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		w.Fatal(err)
	}
	policy := func(name, more string) *unstructured.Unstructured {
		return w.object(`{apiVersion: weft.io/v1alpha1, kind: AuthorizationPolicy, metadata: {name: ` + name + `, namespace: default},
  spec: {action: ALLOW, rules: [{}]` + more + `}}`)
	}
	known, newer := policy("known", ""), policy("newer", `, when: noon`)
	w.until("the newer CRD is served", func() bool {
		// An API server that does not know the field yet refuses it here.
		_, err := w.resource(newer).Create(w.Context(), newer, metav1.CreateOptions{FieldValidation: "Strict"})
		return err == nil
	})
	if _, err := w.resource(known).Create(w.Context(), known, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	w.until("the newer policy is refused, the other accepted", func() bool {
		return condition(w.get(newer), "Accepted") == "False Invalid" && condition(w.get(known), "Accepted") == "True Accepted"
	})
	for name, rules := range map[string]int{"known": 1, "newer": 0} {
		if p, ok := c.objs.AuthorizationPolicies.Get(c.st.Snapshot(), "default/"+name); !ok || len(p.Spec.Rules) != rules {
			w.Errorf("policy %s is in force as %v", name, p)
		}
	}
}

// supportedFeaturesOf: a class declares what the CRDs have the fields for, also after one has come.
func supportedFeaturesOf(w *world, class, mesh *unstructured.Unstructured) {
	supports := func(o *unstructured.Unstructured, name string) bool {
		list, _, _ := unstructured.NestedSlice(w.get(o).Object, "status", "supportedFeatures")
		return slices.ContainsFunc(list, func(f any) bool { return f.(map[string]any)["name"] == name })
	}
	w.until("features without a kind that is not installed", func() bool {
		return supports(class, "HTTPRouteRetryCodes") && supports(class, "ListenerSet") && supports(mesh, "HTTPRouteRetryCodes") && supports(mesh, "MeshConsumerRoute") &&
			!supports(class, "BackendTLSPolicy")
	})
	w.install(crdsOfTheGatewayAPI(w.T, "backendtlspolicies")...)
	w.until("the feature of the kind that has come", func() bool {
		return supports(class, "BackendTLSPolicy") && supports(class, "BackendTLSPolicySANValidation")
	})
}

// others: what another controller wrote is kept, and what it removes of ours comes back.
func others(w *world, route *unstructured.Unstructured) {
	patch := []byte(`{"status":{"parents":[{"controllerName":"other.example/c","parentRef":{"name":"gw"},"conditions":[
  {"type":"Accepted","status":"False","reason":"Other","message":"","lastTransitionTime":"2020-01-01T00:00:00Z"}]}]}}`)
	if _, err := w.resource(route).Patch(w.Context(), route.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		w.Fatal(err)
	}
	w.until("both are there", func() bool {
		parents, _, _ := unstructured.NestedSlice(w.get(route).Object, "status", "parents")
		return len(parents) == 2 && parents[0].(map[string]any)["controllerName"] == "other.example/c"
	})
}

// outage: while the API server is away objects are kept; what went or came meanwhile is seen after.
func outage(w *world, c *Controller, good, late *unstructured.Unstructured) {
	gk := good.GroupVersionKind().GroupKind()
	held := func(o *unstructured.Unstructured) bool {
		_, ok := c.objs.Get(c.st.Snapshot(), gk, kube.Key(o))
		return ok
	}
	w.api.StopServing()
	time.Sleep(3 * time.Second)
	if !held(good) || !held(late) {
		w.Error("an outage takes objects away")
	}
	if err := w.api.Start(w.Context()); err != nil {
		w.Fatal(err)
	}
	if err := w.resource(late).Delete(w.Context(), late.GetName(), metav1.DeleteOptions{}); err != nil {
		w.Fatal(err)
	}
	fresh := w.create(route("fresh", ""))
	w.until("the deletion is seen", func() bool { return !held(late) })
	w.until("statuses are written again", func() bool { return condition(w.get(fresh), "Accepted") == "True Accepted" })
	if !held(good) {
		w.Error("an object that stayed is gone")
	}
}

// many routes get their status.
func many(w *world) {
	const n = 2000
	for i := range n {
		o := w.object(route(fmt.Sprintf("r%d", i), ""))
		if _, err := w.resource(o).Create(w.Context(), o, metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
	}
	gvr := schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}
	w.until("all have a status", func() bool {
		list, err := w.dyn.Resource(gvr).List(w.Context(), metav1.ListOptions{})
		if err != nil {
			w.Fatal(err)
		}
		written := 0
		for i := range list.Items {
			if condition(&list.Items[i], "Accepted") == "True Accepted" {
				written++
			}
		}
		return written > n
	})
}

// TestWhatIsHeld looks at the tables of an agent.
func TestWhatIsHeld(t *testing.T) {
	w := newWorld(t)
	w.create(service)
	w.create(`{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: default}}`)
	w.create(`{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: default, labels: {app: s}, annotations: {weft.io/netns: stolen, a: b, weft.io/x: kept}},
  spec: {nodeName: node, automountServiceAccountToken: false, containers: [{name: c, image: i, env: [{name: SECRET, value: v}], ports: [{containerPort: 80}],
    readinessProbe: {httpGet: {path: /, port: 80}}}]}}`)
	w.create(`{apiVersion: v1, kind: Secret, type: Opaque, metadata: {name: opaque, namespace: default}, stringData: {password: p}}`)
	w.create(`{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {name: tls, namespace: default}, stringData: {tls.crt: c, tls.key: k, other: o}}`)
	w.create(`{apiVersion: v1, kind: Namespace, metadata: {name: typo, labels: {weft.io/mtls: strickt}}}`)

	objs := kube.NewObjects(state.NewDB())
	c := kubecluster.New(w.as("agent"), objs, kubecluster.Options{Log: slog.New(slog.NewTextHandler(w.Output(), nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	w.until("loaded", func() bool { return closed(c.Loaded()) })
	s := objs.DB.Snapshot()
	p, ok := objs.Pods.Get(s, "default/p")
	switch {
	case !ok:
		t.Fatal("the pod is not held")
	case len(p.ManagedFields) > 0 || p.ResourceVersion != "" || len(p.Annotations) != 1 || p.Annotations["weft.io/x"] != "kept":
		t.Errorf("metadata of the pod is held: %v", p.ObjectMeta)
	case p.Spec.Containers[0].Image != "" || len(p.Spec.Containers[0].Env) > 0 || len(p.Spec.Volumes) > 0 || len(p.Spec.Tolerations) > 0:
		t.Errorf("spec of the pod is held: %v", p.Spec)
	case p.Spec.Containers[0].Ports[0].ContainerPort != 80 || p.Spec.Containers[0].ReadinessProbe.HTTPGet.Port.IntValue() != 80 ||
		p.Spec.NodeName != "node" || p.Spec.ServiceAccountName != "default" || p.Labels["app"] != "s":
		t.Errorf("of the pod too little is held: %v", p)
	}
	if n := objs.Secrets.Len(s); n != 0 {
		t.Errorf("an agent holds %d Secrets", n)
	}
	leader, _ := w.start("controller")
	w.until("a controller has read everything", func() bool { return closed(leader.Ready()) })
	var secrets []string
	for x := range leader.objs.Secrets.All(leader.st.Snapshot()) {
		secrets = append(secrets, fmt.Sprint(x.Name, len(x.Data)))
	}
	if !slices.Equal(secrets, []string{"tls2"}) {
		t.Errorf("Secrets that a controller holds, with the number of their keys: %v", secrets)
	}
	ns, _ := objs.Namespaces.Get(s, "/typo")
	if ns == nil || ns.Labels["weft.io/mtls"] != "strict" {
		t.Errorf("a label with a typing error opens the namespace: %v", ns)
	}
	if problems := objs.AllProblems(objs.DB.Snapshot()); len(problems) != 1 || problems[0].Object.Name != "typo" {
		t.Errorf("problems are %v", problems)
	}
}

// gatewayAPI is the folder of the Gateway API's module.
func gatewayAPI(t *testing.T) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
