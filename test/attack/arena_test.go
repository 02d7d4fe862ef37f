package attack

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/sandbox"
	"github.com/weft-mesh/weft/internal/testenv"
)

const manifests = `
apiVersion: v1
kind: Namespace
metadata: {name: bank, labels: {weft.io/mtls: strict}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: bank}
spec: {serviceAccountName: client}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: bank, labels: {app: server}}
spec: {serviceAccountName: server}
---
apiVersion: v1
kind: Pod
metadata: {name: probed, namespace: bank}
spec: {containers: [{name: c, image: i, readinessProbe: {httpGet: {port: 8081, path: /healthz}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: routed, namespace: bank, labels: {weft.io/l7: enabled}}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: bytes, namespace: bank}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: tenant, labels: {weft.io/mtls: strict, weft.io/mtls-enforce: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: mallory, namespace: tenant}
spec: {serviceAccountName: mallory}
---
apiVersion: v1
kind: Pod
metadata: {name: accomplice, namespace: tenant, labels: {app: accomplice}}
spec:
  serviceAccountName: accomplice
  containers: [{name: c, image: i, lifecycle: {postStart: {httpGet: {port: 8082, path: /started}}}}]
---
apiVersion: v1
kind: Service
metadata: {name: routed, namespace: tenant, labels: {weft.io/l7: enabled}}
spec: {selector: {app: accomplice}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: street}
---
apiVersion: v1
kind: Pod
metadata: {name: plain, namespace: street}
---
apiVersion: v1
kind: Pod
metadata: {name: outsider, namespace: street}
---
apiVersion: v1
kind: Namespace
metadata: {name: open, labels: {weft.io/mtls: permissive}}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: open, labels: {app: server}}
---
apiVersion: v1
kind: Service
metadata: {name: routed, namespace: open, labels: {weft.io/l7: enabled}}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
`

// arena is the node that is attacked.
type arena struct {
	*sandbox.Node
	// client and server are the neighbours of whoever attacks. mallory is a pod of a tenant, and accomplice another one of
	// its pods. outsider has no identity, and neither has plain. probed is strict and declares a probe.
	client, server, mallory, accomplice, outsider, plain, open, probed *lab.Pod
	// ways are those by which the neighbour's requests go.
	ways []way
}

func newArena(t *testing.T, args ...string) *arena {
	t.Helper()
	testenv.Root(t)
	n, err := sandbox.New(sandbox.Options{
		// Without the race detector, which would change what is measured.
		Name: "watk", Subnet: netip.MustParsePrefix("10.74.0.0/24"), Binary: testenv.Weft(t), Envoy: testenv.Envoy(t), AgentArgs: args,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := n.Apply(t.Context(), fstest.MapFS{"attack/all.yaml": {Data: []byte(manifests)}}, "attack"); err != nil {
		t.Fatal(err)
	}
	a := &arena{
		Node: n, client: n.Pod("bank", "client"), server: n.Pod("bank", "server"), mallory: n.Pod("tenant", "mallory"),
		accomplice: n.Pod("tenant", "accomplice"), outsider: n.Pod("street", "outsider"), plain: n.Pod("street", "plain"),
		open: n.Pod("open", "server"), probed: n.Pod("bank", "probed"),
	}
	for _, service := range []string{"routed", "bytes"} {
		a.ways = append(a.ways, way{service, a.client, netip.AddrPortFrom(a.ServiceIP("bank", service), 80)})
	}
	for _, p := range []*lab.Pod{a.server, a.accomplice, a.plain, a.open} {
		serve(t, p, ":8080")
	}
	if err := n.StartAgent(); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
}

// serve answers HTTP at an address of a pod, in this process.
func serve(t *testing.T, p *lab.Pod, at string) {
	t.Helper()
	l, err := p.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, p.Name)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// routed is the address of a Service whose connections come to Envoy.
func (a *arena) routed(namespace string) string {
	return netip.AddrPortFrom(a.ServiceIP(namespace, "routed"), 80).String()
}

// memory gives what Envoy and weft tunnel hold, in MB.
func (a *arena) memory(t *testing.T) (envoy, tunnel int) {
	t.Helper()
	st, err := a.Proxy.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	envoy = int(st.AllocatedBytes >> 20)
	if st.Tunnel != nil {
		tunnel = resident(t, st.Tunnel.PID)
	}
	return envoy, tunnel
}

// resident is the memory of a process, in MB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return kb >> 10
		}
	}
	t.Fatalf("process %d has no memory", pid)
	return 0
}

// reached reports whether a connection from a pod to an address is answered by an application.
func reached(p *lab.Pod, to netip.AddrPort) error {
	c, err := p.Dial(contextFor(5*time.Second), "tcp", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err == nil && !strings.Contains(string(answer), "200 OK") {
		err = fmt.Errorf("answer %q", answer)
	}
	return err
}
