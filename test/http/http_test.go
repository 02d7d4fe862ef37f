package http

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/sandbox"
	"github.com/weft-mesh/weft/internal/testenv"
)

// way leads from a client to a server.
type way struct {
	name   string
	client *lab.Pod
	server *server
	to     string
	adds   []string // fields that the way adds to requests, without values
}

// result is what both ends saw.
type result struct {
	Server []message // the requests
	Client []message // the answers, the final one last
}

// TestHTTP compares every way of the mesh with the direct one.
func TestHTTP(t *testing.T) {
	testenv.Root(t)
	n := start(t)
	ways := waysOf(t, n)
	cold := ways[1]
	cold.name = "cold route"
	for i := range cases {
		x := &cases[i]
		ways := ways
		if x.cold {
			cold.to = netip.AddrPortFrom(coldIP(i), 80).String()
			ways = append(slices.Clone(ways), cold)
		}
		if x.request == "" && x.h2 == nil {
			x.request = get("/")
		}
		if x.answer == "" && !x.closes {
			x.answer = ok
		}
		t.Run(x.name, func(t *testing.T) {
			direct, err := play(ways[0], x)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range ways[1:] {
				if x.half && w.name == gateway {
					continue
				}
				t.Run(w.name, func(t *testing.T) {
					got, err := play(w, x)
					if err != nil {
						t.Fatal(err)
					}
					compare(t, x.wanted(w, direct, got), got)
				})
			}
		})
	}
	t.Run("a Gateway and a client that ends its side", func(t *testing.T) { droppedAtGateway(t, ways) })
	if t.Failed() {
		t.Log(n.Logs())
	}
}

// droppedAtGateway: the kernel of a Gateway's client is not the mesh's, and nothing tells a client that ends its side from one that is
// gone. The connection ends without an answer. The server may get the request, and later, so no other case follows.
func droppedAtGateway(t *testing.T, ways []way) {
	w := ways[slices.IndexFunc(ways, func(w way) bool { return w.name == gateway })]
	got, err := play(w, &exchange{request: get("/"), answer: ok, half: true, slow: thinks})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Client) != 1 || got.Client[0].Start != "" || got.Client[0].End != "closed" && got.Client[0].End != "reset" {
		t.Errorf("the client saw:\n%s", lines(got.Client))
	}
}

// gateway is the name of the way by a Gateway.
const gateway = "Gateway"

func play(w way, x *exchange) (result, error) {
	w.server.expect(x)
	client, err := ask(w.client, w.to, x)
	r := result{Server: slices.Clone(w.server.saw()), Client: client}
	for i := range r.Server {
		r.Server[i].Fields = slices.DeleteFunc(slices.Clone(r.Server[i].Fields), func(f string) bool {
			name, _, _ := strings.Cut(f, ":")
			return slices.Contains(w.adds, name) && !strings.Contains(strings.ToLower(x.request), "\n"+name+":")
		})
	}
	return r, err
}

// wanted is what a way must give.
func (x *exchange) wanted(w way, direct, got result) result {
	want := result{Server: copied(direct.Server), Client: copied(direct.Client)}
	for _, e := range x.except {
		if strings.Contains(w.name, e.ways) {
			e.want(&want, got)
		}
	}
	return want
}

func copied(ms []message) []message {
	out := slices.Clone(ms)
	for i := range out {
		out[i].Fields = slices.Clone(out[i].Fields)
	}
	return out
}

func compare(t *testing.T, want, got result) {
	t.Helper()
	for i := range got.Client { // a proxy may add the date (RFC 9110 6.6.1)
		dated := func(f string) bool { return strings.HasPrefix(f, "date: ") }
		if i >= len(want.Client) || !slices.ContainsFunc(want.Client[i].Fields, dated) {
			got.Client[i].Fields = slices.DeleteFunc(got.Client[i].Fields, dated)
		}
	}
	if w, g := lines(want.Server), lines(got.Server); w != g {
		t.Errorf("the server saw:\n%swant:\n%s", g, w)
	}
	if w, g := lines(want.Client), lines(got.Client); w != g {
		t.Errorf("the client saw:\n%swant:\n%s", g, w)
	}
}

func lines(ms []message) string {
	var b strings.Builder
	for _, m := range ms {
		fmt.Fprintf(&b, "\t%.200s\n", m.Start)
		for _, f := range m.Fields {
			fmt.Fprintf(&b, "\t  %.200q\n", f)
		}
		fmt.Fprintf(&b, "\t  body %q trailer %q end %q\n", m.Body, m.Trailer, m.End)
	}
	return b.String()
}

func start(t *testing.T) *sandbox.Node {
	t.Helper()
	n, err := sandbox.New(sandbox.Options{
		Name: "whttp", Subnet: netip.MustParsePrefix("10.87.0.0/24"), ServiceSubnet: netip.MustParsePrefix("10.99.0.0/24"),
		Binary: testenv.Weft(t), Envoy: testenv.Envoy(t), AgentArgs: []string{"--log-level=debug"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := n.Apply(t.Context(), fstest.MapFS{"http/all.yaml": {Data: []byte(manifest())}}, "http"); err != nil {
		t.Fatal(err)
	}
	if err := n.StartAgent(); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	enforced(t, n, guarded+"/s")
	return n
}

// enforced waits until the agent has looked for the last time at connections from before a pod's policy, 1 s after the start at most. It
// ends those that the policy may narrow, and a request on one of them is sent again: the server would see it twice.
func enforced(t *testing.T, n *sandbox.Node, pod string) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var text []byte
		if text, err = os.ReadFile(filepath.Join(n.RunDir, "enforced.json")); err != nil {
			continue
		}
		var versions map[string][]json.RawMessage // of policies that connections may have been let in by
		if err = json.Unmarshal(text, &versions); err != nil {
			t.Fatal(err)
		}
		if len(versions[pod]) == 1 {
			return
		}
	}
	t.Fatalf("the policy of %s is not enforced: %v", pod, err)
}

// Namespaces of pods without an identity, with one, and with a policy that looks at requests.
const plain, strict, guarded = "plain", "strict", "guarded"

var namespaces = []string{plain, strict, guarded}

// waysOf gives the direct way first. Each way answers when it returns.
func waysOf(t *testing.T, n *sandbox.Node) []way {
	t.Helper()
	pod := func(name string) *lab.Pod {
		p, err := n.Lab.AddPod(name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	oc, other := pod("oc"), pod("os")
	service := func(ns string) string { return netip.AddrPortFrom(serviceIP(ns), 80).String() }
	ps := serve(t, n.Pod(plain, "s"))
	// Envoy always says by which scheme a request came, if nobody did before. A Gateway also says who asks, and numbers requests.
	scheme := []string{"x-forwarded-proto"}
	client := []string{"x-forwarded-proto", "x-forwarded-for", "x-request-id", "x-weft-passed"}
	ways := []way{
		{"direct", oc, serve(t, other), net.JoinHostPort(other.Address.String(), fmt.Sprint(serverPort)), nil},
		{"route", n.Pod(plain, "c"), ps, service(plain), scheme},
		{"route of a port that may speak anything", n.Pod(plain, "c"), ps, detectedIP + ":80", scheme},
		{"mTLS", n.Pod(strict, "c"), serve(t, n.Pod(strict, "s")), service(strict), scheme},
		{"policy", n.Pod(guarded, "c"), serve(t, n.Pod(guarded, "s")), service(guarded), scheme},
		{gateway, oc, ps, "10.99.0.1:80", client},
	}
	for _, w := range ways {
		ready(t, w)
	}
	return ways
}

func ready(t *testing.T, w way) {
	t.Helper()
	x := &exchange{request: get("/"), answer: ok}
	var r result
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if r, err = play(w, x); err == nil && len(r.Client) == 1 && r.Client[0].Start == "200" {
			return
		}
	}
	t.Fatalf("%s does not answer: %v, %+v", w.name, err, r)
}

func serviceIP(ns string) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 99, 0, byte(10 + slices.Index(namespaces, ns))})
}

func manifest() string {
	var b strings.Builder
	for _, ns := range namespaces {
		mode := map[string]string{plain: "disabled", strict: "strict", guarded: "strict"}[ns]
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {weft.io/mtls: %s}}\n", ns, mode)
		for _, name := range []string{"c", "s"} {
			b.WriteString(testenv.PodWithAccount(ns, name))
		}
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: %[1]s}
spec:
  clusterIP: %[2]s
  clusterIPs: [%[2]s]
  selector: {app: s}
  ports: [{name: http, port: 80, targetPort: %[3]d}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: s, namespace: %[1]s}
spec:
  parentRefs: [{group: "", kind: Service, name: s, port: 80}]
  rules: [{backendRefs: [{name: s, port: 80}]}]
`, ns, serviceIP(ns), serverPort)
	}
	fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: detected, namespace: plain}
spec:
  clusterIP: %s
  selector: {app: s}
  ports: [{port: 80, targetPort: %d}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: detected, namespace: plain}
spec:
  parentRefs: [{group: "", kind: Service, name: detected}]
  rules: [{backendRefs: [{name: s, port: 80}]}]
`, detectedIP, serverPort)
	for i, x := range cases {
		if x.cold {
			fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: cold-%[1]d, namespace: plain, labels: {weft.io/l7: enabled}}
spec:
  clusterIP: %[2]s
  selector: {app: s}
  ports: [{name: http, port: 80, targetPort: %[3]d}]
`, i, coldIP(i), serverPort)
		}
	}
	return b.String() + edge
}

// detectedIP is the address of a Service whose port does not say what it speaks.
const detectedIP = "10.99.0.20"

// coldIP returns the address of the Service for the i-th case, which no other case asks.
func coldIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, 0, byte(50 + i)}) }

// edge is a policy that looks at requests, and a Gateway to the pods without an identity.
const edge = `---
apiVersion: weft.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: s, namespace: guarded}
spec:
  targetRefs: [{kind: Service, name: s}]
  action: ALLOW
  rules: [{http: [{paths: [{type: PathPrefix, value: /}]}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weft}
spec: {controllerName: weft.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: plain}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress, value: 10.99.0.1}]
  listeners: [{name: http, protocol: HTTP, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge, namespace: plain}
spec:
  parentRefs: [{name: edge}]
  hostnames: [shop.example]
  rules: [{backendRefs: [{name: s, port: 80}]}]
`
