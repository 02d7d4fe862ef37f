package manifests

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

var testDecoder = newDecoder(kube.NewObjects(state.NewDB()))

func parse(text string) (out []*document) {
	for _, c := range splitFile("a.yaml", []byte(text)) {
		out = append(out, testDecoder.chunk(c)...)
	}
	return out
}

func one[T runtime.Object](t *testing.T, text string) T {
	t.Helper()
	docs := parse(text)
	if len(docs) != 1 || docs[0].obj == nil {
		t.Fatalf("%d documents, faults %v", len(docs), docs[0].faults)
	}
	return docs[0].obj.(T)
}

// TestWhatAnAPIServerWouldComplete checks the defaults that the mesh depends on.
func TestWhatAnAPIServerWouldComplete(t *testing.T) {
	r := one[*gwv1.HTTPRoute](t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, creationTimestamp: "2020-01-01T00:00:00Z", managedFields: [{manager: x}]}
spec:
  parentRefs: [{name: gw}]
  rules:
    - backendRefs: [{name: web, port: 80}]
status: {parents: []}
`)
	parent, rule := r.Spec.ParentRefs[0], r.Spec.Rules[0]
	if r.Namespace != "default" || !r.CreationTimestamp.IsZero() || r.ManagedFields != nil {
		t.Errorf("metadata %+v", r.ObjectMeta)
	}
	if *parent.Kind != "Gateway" || *parent.Group != gwv1.GroupName {
		t.Errorf("parent %+v", parent)
	}
	if m := rule.Matches; len(m) != 1 || *m[0].Path.Type != gwv1.PathMatchPathPrefix || *m[0].Path.Value != "/" {
		t.Errorf("matches %+v", m)
	}
	if b := rule.BackendRefs[0]; *b.Weight != 1 || *b.Kind != "Service" || *b.Group != "" {
		t.Errorf("backend %+v", b)
	}
	s := one[*corev1.Service](t, `
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {clusterIP: 10.96.0.1, sessionAffinity: ClientIP, ports: [{port: 80}]}
`)
	p := s.Spec.Ports[0]
	if p.Protocol != corev1.ProtocolTCP || p.TargetPort.IntVal != 80 || *s.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds != 10800 || s.Spec.ClusterIPs[0] != "10.96.0.1" {
		t.Errorf("service %+v", s.Spec)
	}
	if n := one[*corev1.Namespace](t, "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}"); n.Labels[corev1.LabelMetadataName] != "shop" {
		t.Errorf("namespace labels %v", n.Labels)
	}
	if p := one[*corev1.Pod](t, "{apiVersion: v1, kind: Pod, metadata: {name: p}}"); p.Spec.ServiceAccountName != "default" {
		t.Errorf("pod %+v", p.Spec)
	}
	if s := one[*corev1.Secret](t, "{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: YQ==}, stringData: {b: b}}"); string(s.Data["a"]) != "a" || string(s.Data["b"]) != "b" || s.StringData != nil {
		t.Errorf("secret keys %d", len(s.Data))
	}
}

func route(spec string) string {
	return "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n" + spec
}

func core(kind, rest string) string {
	return "apiVersion: v1\nkind: " + kind + "\n" + rest
}

func policy(spec string) string {
	return "apiVersion: weft.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: " + spec
}

// TestRefused is what an API server would refuse, or what the mesh would misunderstand.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, text, line, reason string }{
		{"path of 1 MiB", route("  rules:\n  - matches:\n    - path: {type: Exact, value: /" + strings.Repeat("a", 1<<20) + "}\n"), "7", "may not be more than 1024"},
		{"enum", route("  rules:\n  - matches:\n    - path: {type: Glob, value: /}\n"), "7", `Unsupported value: "Glob"`},
		{"path with dots", route("  rules:\n  - matches:\n    - path: {type: Exact, value: /a/../b}\n"), "7", "must not contain '/../'"},
		{"header with a newline", route("  rules:\n  - filters:\n    - type: RequestHeaderModifier\n      requestHeaderModifier:\n        set:\n        - name: \"x\\r\\ny\"\n          value: v\n"), "10", "should match"},
		{"filter without its field", route("  rules:\n  - filters:\n    - type: URLRewrite\n"), "7", "filter.urlRewrite must be specified"},
		{"redirect with backends", route("  rules:\n  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]\n    backendRefs: [{name: a, port: 80}]\n"), "6", "RequestRedirect filter must not be used together with backendRefs"},
		{"service without a port", route("  rules:\n  - backendRefs:\n    - name: a\n"), "7", "Must have port for Service reference"},
		{"timeouts", route("  rules:\n  - timeouts:\n      request: 1s\n      backendRequest: 2s\n"), "6", "backendRequest timeout cannot be longer"},
		{"weight", route("  rules:\n  - backendRefs:\n    - name: a\n      port: 80\n      weight: -1\n"), "9", "greater than or equal to 0"},
		{"too many rules", route("  rules:\n" + strings.Repeat("  - name: a\n", 17)), "5", "must have at most 16 items"},
		{"hostname", route("  hostnames:\n  - \"*.*.com\"\n"), "6", "should match"},
		{"wrong type", route("  rules: 7\n"), "5", "must be of type array"},
		{"listeners of one name", "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  gatewayClassName: weft\n  listeners:\n  - {name: a, port: 80, protocol: HTTP}\n  - {name: a, port: 81, protocol: HTTP}\n", "8", "Duplicate value"},
		{"gateway without a class", "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {listeners: [{name: a, port: 80, protocol: HTTP}]}\n", "4", "Required value"},
		{"name", core("Service", "metadata:\n  name: Not_A_Name\n"), "4", "RFC 1123"},
		{"name with a slash", core("Pod", "metadata:\n  name: a/b\n"), "4", "RFC 1123"},
		{"namespace", core("Pod", "metadata:\n  name: a\n  namespace: a.b\n"), "5", "must not contain dots"},
		{"label", core("Pod", "metadata:\n  name: a\n  labels:\n    a: \"b c\"\n"), "5", "a valid label"},
		{"metadata", core("Pod", "metadata: 7\n"), "3", "metadata.name is missing"},
		{"mtls typo", core("Namespace", "metadata:\n  name: a\n  labels:\n    weft.io/mtls: strikt\n"), "6", `Unsupported value: "strikt"`},
		{"l7 typo", core("Service", "metadata:\n  name: a\n  labels:\n    weft.io/l7: \"yes\"\n"), "6", `Unsupported value: "yes"`},
		{"label that YAML takes for a boolean", core("Service", "metadata:\n  name: a\n  labels:\n    weft.io/l7: on\n"), "5", "must be a string"},
		{"namespace path", core("Pod", "metadata:\n  name: a\n  annotations:\n    weft.io/netns: ../../etc\n"), "6", "the name of a file"},
		{"cgroup path", core("Pod", "metadata:\n  name: a\n  annotations:\n    weft.io/cgroup: a/../../b\n"), "6", "below the cgroup2 mount"},
		{"pod address", core("Pod", "metadata:\n  name: a\n  annotations:\n    weft.io/ip: 10.0.0.999\n"), "6", "must be addresses"},
		{"service port", core("Service", "metadata: {name: a}\nspec:\n  ports:\n  - port: 70000\n"), "6", "between 1 and 65535"},
		{"service ports twice", core("Service", "metadata: {name: a}\nspec:\n  ports:\n  - {name: a, port: 80}\n  - {name: b, port: 80}\n"), "7", "Duplicate value"},
		{"cluster IP", core("Service", "metadata: {name: a}\nspec:\n  clusterIP: here\n"), "4", "IPv4 or IPv6"},
		{"secret data", core("Secret", "metadata: {name: a}\ndata: {a: \"%\"}\n"), "1", "illegal base64"},
		{"tls secret", core("Secret", "metadata: {name: a}\ntype: kubernetes.io/tls\ndata: {tls.crt: YQ==}\n"), "5", "tls.key"},
		{"slice address", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\naddressType: IPv4\nendpoints:\n- addresses: [\"fd00::1\"]\n", "6", "is not of addressType"},
		{"policy action", policy("{action: DENY}"), "4", `supported values: "ALLOW"`},
		{"policy without action", policy("{rules: []}"), "4", "Unsupported value"},
		{"policy source", policy("{action: ALLOW, rules: [{sources: [{type: ServiceAccount, namespace: a}]}]}"), "4", "type is ServiceAccount"},
		{"policy typo", policy("\n  action: ALLOW\n  rules:\n  - source: []\n"), "7", `unknown field "spec.rules[0].source"`},
		{"policy SPIFFE ID", policy("{action: ALLOW, rules: [{sources: [{type: SPIFFE, spiffe: \"https://x/y\"}]}]}"), "4", "must be a SPIFFE ID"},
		{"policy target", policy("{action: ALLOW, targetRefs: [{kind: Deployment, name: a}]}"), "4", `Unsupported value: "Deployment"`},
		{"policy path", policy("{action: ALLOW, rules: [{http: [{paths: [{value: a}]}]}]}"), "4", "must begin with /"},
		{"policy method", policy("{action: ALLOW, rules: [{http: [{methods: [get]}]}]}"), "4", "upper case"},
		{"pool", "apiVersion: weft.io/v1alpha1\nkind: AddressPool\nmetadata: {name: a}\nspec: {addresses: [\"10.0.0.9-10.0.0.1\"]}", "4", "FIRST-LAST"},
		{"aliases", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n" + bomb(), "1", "aliases"},
		{"alias of itself", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: &a\n  a: *a\n", "1", "aliases"},
		{"no UTF-8", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: \"\xff\"}\n", "4", "is not UTF-8"},
		{"deep", "a: " + strings.Repeat("[", 200_000), "1", "max depth"},
		{"NUL", "apiVersion: v1\nkind: \x00\n", "1", "control characters"},
	} {
		t.Run(c.name, func(t *testing.T) {
			docs := parse(c.text)
			if len(docs) != 1 || docs[0].obj != nil {
				t.Fatalf("%d documents, taken", len(docs))
			}
			var got []string
			for _, f := range docs[0].faults {
				text := fmt.Sprintf("%d: %s", f.line+1, f.reason)
				if len(text) > maxReason+32 {
					t.Errorf("a reason of %d bytes", len(text))
				}
				got = append(got, text)
				if strings.HasPrefix(text, c.line+": ") && strings.Contains(text, c.reason) {
					return
				}
			}
			t.Errorf("want %q in line %s, got\n%s", c.reason, c.line, strings.Join(got, "\n"))
		})
	}
}

// bomb is small as text and has 10^8 scalars once its aliases are followed.
func bomb() string {
	var b strings.Builder
	b.WriteString("  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 7 {
		fmt.Fprintf(&b, "  a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	return b.String()
}

// TestTaken is what is unusual and right.
func TestTaken(t *testing.T) {
	for _, c := range []struct{ name, text string }{
		{"1 MiB of text", core("ConfigMap", "metadata: {name: a}\ndata: {a: \""+strings.Repeat("a", 1<<20)+"\"}\n")},
		{"aliases", core("ConfigMap", "metadata: {name: &n a, labels: {x: *n}}\n")},
		{"marker inside a text", core("ConfigMap", "metadata: {name: a}\ndata:\n  a: |\n    x\n    ---\n    y\n")},
		{"CRLF", strings.ReplaceAll("---\n"+core("ConfigMap", "metadata: {name: a}\n")+"---\n", "\n", "\r\n")},
		{"byte order mark", "\xef\xbb\xbf" + core("ConfigMap", "metadata: {name: a}\n")},
		{"directive", "%YAML 1.1\n---\n" + core("ConfigMap", "metadata: {name: a}\n")},
		{"all of a policy", policy("{action: ALLOW, targetRefs: [{kind: Pod, selector: {matchLabels: {a: b}}}, {kind: Service, name: web}], rules: [{sources: [{type: SPIFFE, spiffe: \"spiffe://t/ns/a/sa/b\"}, {type: ServiceAccount, serviceAccount: {name: a}}, {type: Namespace, namespace: b}], networkAttributes: {ports: [80]}, http: [{methods: [GET], paths: [{type: PathPrefix, value: /a}]}]}]}")},
	} {
		t.Run(c.name, func(t *testing.T) {
			if docs := parse(c.text); len(docs) != 1 || docs[0].obj == nil {
				t.Errorf("%d documents: %v", len(docs), docs[0].faults)
			}
		})
	}
}

// TestFilesThatAreNone takes names of manifests for what cannot be read.
func TestFilesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	write(t, in("good.yaml"), core("Pod", "metadata: {name: good}\n"))
	write(t, in("large.yaml"), strings.Repeat("# large\n", 200))
	if err := syscall.Mkfifo(in("pipe.yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"gone.yaml": "nowhere", "device.yaml": "/dev/zero", "loop.yaml": "loop.yaml", "up": ".."} {
		if err := os.Symlink(target, in(name)); err != nil {
			t.Fatal(err)
		}
	}
	objs := kube.NewObjects(state.NewDB())
	f := NewFolder(dir, objs, FolderOptions{Log: quiet, MaxFile: 1000})
	if err := f.Load(); err != nil {
		t.Fatal(err)
	}
	want := strings.TrimSpace(`
Pod default/good generation 1
! device.yaml: cannot be read: is not a regular file
! gone.yaml: cannot be read: no such file or directory
! large.yaml: cannot be read: is larger than 1000 bytes
! loop.yaml: cannot be read: too many levels of symbolic links
! pipe.yaml: cannot be read: is not a regular file
! up: is a link to a folder; links to folders are not followed
`)
	if got := strings.TrimSpace(dump(f, objs)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// FuzzManifest parses any bytes between two good documents: it must not panic, and not lose them.
func FuzzManifest(f *testing.F) {
	for _, s := range []string{
		"", "---", "...", "a: b", "kind: [", "\t", "{}", "- a\n- b", "%YAML 1.2", "&a [*a]", core("Pod", "metadata: {name: a}"),
		route("  rules: [{backendRefs: [{name: a, port: 80}]}]"), policy("{action: ALLOW}"), "kind: List\napiVersion: v1\nitems: [1]",
		"? !!binary x", "\xff\xfe", "--- |\n x", "'", "a: |\n  b\n ---",
	} {
		f.Add([]byte(s))
	}
	first, last := []byte(core("Pod", "metadata: {name: first}\n")), []byte("\n---\n"+core("Pod", "metadata: {name: last}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		text := bytes.Join([][]byte{first, []byte("---\n"), data, last}, nil)
		names := map[string]bool{}
		for _, d := range parse(string(text)) {
			if d.obj != nil {
				names[d.ref.Name] = true
			} else if len(d.faults) == 0 {
				t.Error("a document is neither taken nor at fault")
			}
			for _, f := range d.faults {
				if f.line < 0 || f.line > bytes.Count(text, []byte{'\n'})+1 {
					t.Errorf("line %d of a text of %d", f.line, bytes.Count(text, []byte{'\n'}))
				}
			}
		}
		if !names["first"] || !names["last"] {
			t.Errorf("a good document was lost: %v", names)
		}
		for _, c := range splitFile("a.json", data) {
			testDecoder.chunk(c)
		}
	})
}

// TestOlderVersions: what an API server with the CRDs of an older release has is read as it would be there.
func TestOlderVersions(t *testing.T) {
	for apiVersion, reason := range map[string]string{"v1": "", "v1alpha2": "", "v1beta1": "has no version v1beta1", "v1alpha3": "has no version v1alpha3"} {
		docs := parse("apiVersion: gateway.networking.k8s.io/" + apiVersion + "\nkind: TCPRoute\nmetadata: {name: r, namespace: ns}\nspec: {rules: [{backendRefs: [{name: s, port: 80}]}]}\n")
		if len(docs) != 1 || (docs[0].obj == nil) != (reason != "") {
			t.Errorf("%s: %+v", apiVersion, docs)
			continue
		}
		if reason != "" && !strings.Contains(docs[0].faults[0].reason, reason) {
			t.Errorf("%s: %v", apiVersion, docs[0].faults)
		}
	}
}
