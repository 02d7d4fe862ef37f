package node

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/sandbox"
	"github.com/weft-mesh/weft/internal/testenv"
)

// mesh is the node that all tests share.
type mesh struct {
	*sandbox.Node
	backends map[string]*backend // by namespace/pod
	outside  *lab.Pod            // no pod of the cluster
	// bytesPort is where authenticated bytes go: that of HBONE or of weft tunnel.
	bytesPort uint16
	exported  string // the file to which the agent exports refused flows
}

// TestNode starts a node once, as it is by default: its authenticated bytes go by weft tunnel. Parts leave it as they found
// it.
func TestNode(t *testing.T) { node(t, model.PortTunnel) }

// TestNodeHBONE does the same with HBONE, by which bytes go to nodes without weft tunnel, and runs the parts that depend on
// it. make node-hbone runs those too that take minutes.
func TestNodeHBONE(t *testing.T) {
	without := []string{"Services", "Routes", "Gateway", "Traces", "BackendTLS", "Tunnel", "Explain", "ProxyLog"}
	if !long {
		without = append(without, "Changes", "Observe")
	}
	node(t, model.PortHBONE, without...)
}

var long = os.Getenv("WEFT_TEST_LONG") != ""

func node(t *testing.T, bytesPort uint16, without ...string) {
	testenv.Root(t)
	m := start(t, bytesPort)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *mesh)
	}{
		{"Services", services}, {"Routes", routes}, {"MTLS", mtls}, {"Policies", policies}, {"Gateway", gateways}, {"Traces", traces}, {"BackendTLS", backendTLS},
		{"Changes", changes}, {"Observe", observed}, {"Tunnel", tunnelled}, {"Explain", explained}, {"Detection", detection}, {"ProxyLog", proxyLog},
	} {
		if slices.Contains(without, part.name) {
			continue
		}
		if !t.Run(part.name, func(t *testing.T) { part.run(t, m) }) {
			t.Log(m.Logs())
		}
	}
}

// proxyDrainTime is how long Envoy serves a listener that was replaced. It is short, because tests wait for longer than that.
const proxyDrainTime = "2s"

// metricsAddress is that of the node's agent.
const metricsAddress = "127.0.0.1:15924"

func start(t *testing.T, bytesPort uint16) *mesh {
	t.Helper()
	// Certificates are replaced every 10 s under everything that the tests do.
	exported := filepath.Join(t.TempDir(), "flows.json")
	args := []string{"--flow-export-file=" + exported, "--flow-export-filter=verdict=refused", "--svid-ttl=20s", "--log-level=debug", "--request-log", "--metrics-address=" + metricsAddress, "--proxy-args=--drain-time=" + proxyDrainTime}
	if bytesPort == model.PortHBONE {
		args = append(args, "--bytes=hbone")
	}
	n, err := sandbox.New(sandbox.Options{
		Name: "wnode", Subnet: netip.MustParsePrefix("10.84.0.0/24"), Binary: buildWeft(t), Envoy: testenv.Envoy(t),
		AgentArgs: args,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	m := &mesh{Node: n, backends: map[string]*backend{}, bytesPort: bytesPort, exported: exported}
	t.Cleanup(func() { // before the node's end
		for _, b := range m.backends {
			b.close()
		}
	})
	if err := n.Apply(t.Context(), manifests(), "mesh"); err != nil {
		t.Fatal(err)
	}
	if m.outside, err = n.Lab.AddPod("outside"); err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		m.serve(t, p.namespace, p.name)
	}
	if err := n.StartAgent(); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// buildWeft builds the program that the agent, weft proxy and the commands run as, with the race detector if the tests
// have it.
func buildWeft(t *testing.T) string {
	t.Helper()
	if raceDetector {
		return testenv.WeftWithRace(t)
	}
	return testenv.Weft(t)
}

// apply writes a manifest that ends with the test.
func (m *mesh) apply(t *testing.T, text string) {
	t.Helper()
	file := "test/" + strings.NewReplacer("/", "-", " ", "-").Replace(strings.ToLower(t.Name())) + ".yaml"
	if err := m.Write(file, []byte(text)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(filepath.Join(m.Manifests(), file)) })
}

// weft runs a command of the CLI on this node and gives what it prints and its exit status.
func (m *mesh) weft(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.Binary, append(args, "--run", m.RunDir)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// pods: s1 and s2 serve alike; the service account of each has its name.
var pods = []struct{ namespace, name, app, labels string }{
	{"plain", "c", "c", ""}, {"plain", "s1", "echo", ""}, {"plain", "s2", "echo", ""},
	{"other", "c", "c", ""},
	{"strict", "alice", "alice", ""}, {"strict", "bob", "bob", ""}, {"strict", "srv", "srv", ""},
	{"strict", "open", "open", "weft.io/mtls: disabled"},
	{"perm", "c", "c", ""}, {"perm", "srv", "srv", ""},
	{"flip", "srv", "srv", ""}, {"flip", "c", "c", ""},
	{"guard", "srv", "srv", ""},
}

var modes = map[string]string{"plain": "", "other": "", "strict": "strict", "perm": "permissive", "flip": "disabled", "guard": "permissive"}

// services of all namespaces: each has both families, HTTP on 80, bytes on 70, gRPC on 90, datagrams on 53.
var serviceList = []struct{ namespace, name, app, more string }{
	{"plain", "echo", "echo", ""}, {"plain", "l4", "echo", ""}, {"plain", "sticky", "echo", "sessionAffinity: ClientIP"},
	{"plain", "s1", "s1", ""}, {"plain", "s2", "s2", ""}, {"plain", "self", "s1", ""}, {"plain", "swap", "s1", ""},
	{"strict", "srv", "srv", ""}, {"strict", "l7", "srv", ""}, {"strict", "open", "open", ""},
	{"perm", "srv", "srv", ""}, {"flip", "srv", "srv", ""}, {"guard", "srv", "srv", ""}, {"guard", "l7", "srv", ""},
	{"flip", "l7", "srv", ""},
}

// serviceIPs gives the addresses of a Service, IPv4 first.
func serviceIPs(namespace, name string) [2]netip.Addr {
	for i, s := range serviceList {
		if s.namespace == namespace && s.name == name {
			return [2]netip.Addr{
				netip.AddrFrom4([4]byte{10, 97, 0, byte(i + 1)}),
				netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x97, 15: byte(i + 1)}),
			}
		}
	}
	panic("no Service " + namespace + "/" + name)
}

func manifests() fstest.MapFS {
	fs := fstest.MapFS{}
	for ns, mode := range modes {
		fs["mesh/ns-"+ns+".yaml"] = &fstest.MapFile{Data: []byte(namespaceManifest(ns, mode))}
	}
	var b strings.Builder
	for _, p := range pods {
		fs["mesh/pod-"+p.namespace+"-"+p.name+".yaml"] = &fstest.MapFile{Data: []byte(podManifest(p.namespace, p.name, p.app, p.labels))}
	}
	for _, s := range serviceList {
		b.WriteString(serviceManifest(s.namespace, s.name, s.app, s.more))
	}
	fs["mesh/services.yaml"] = &fstest.MapFile{Data: []byte(b.String())}
	return fs
}

func namespaceManifest(name, mode string) string {
	labels := ""
	if mode != "" {
		labels = "\n  labels: {weft.io/mtls: " + mode + "}"
	}
	return "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + name + labels + "\n"
}

func podManifest(ns, name, app, labels string) string {
	if labels != "" {
		labels = ", '" + strings.Replace(labels, ": ", "': ", 1)
	}
	return fmt.Sprintf(`apiVersion: v1
kind: ServiceAccount
metadata: {name: %[2]s, namespace: %[1]s}
---
apiVersion: v1
kind: Pod
metadata:
  name: %[2]s
  namespace: %[1]s
  labels: {app: %[3]s, pod: %[2]s%[4]s}
spec:
  serviceAccountName: %[2]s
  containers:
    - name: server
      image: example/server
      readinessProbe: {httpGet: {port: 8081}}
`, ns, name, app, labels)
}

// serviceManifest selects by the label app, or the one pod of that name where no app is called so.
func serviceManifest(ns, name, app, more string) string {
	selector := "pod"
	for _, p := range pods {
		if p.namespace == ns && p.app == app {
			selector = "app"
		}
	}
	l7 := ""
	if name == "l7" {
		l7 = "\n  labels: {weft.io/l7: enabled}"
	}
	ip := serviceIPs(ns, name)
	if more != "" {
		more = "\n  " + more
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata:
  name: %[2]s
  namespace: %[1]s%[3]s
spec:
  clusterIP: %[4]s
  clusterIPs: ["%[4]s", "%[5]s"]
  ipFamilyPolicy: RequireDualStack
  selector: {%[6]s: %[7]s}%[8]s
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: bytes, port: 70, targetPort: 7070}
    - {name: grpc, port: 90, targetPort: 9090, appProtocol: kubernetes.io/h2c}
    - {name: dns, port: 53, targetPort: 5353, protocol: UDP}
`, ns, name, l7, ip[0], ip[1], selector, app, more)
}
