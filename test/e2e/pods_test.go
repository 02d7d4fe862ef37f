//go:build cluster

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/test/cluster"
	"github.com/weft-mesh/weft/test/e2e/workload"
)

const (
	workloadImage = "ghcr.io/weft-mesh/weft-e2e:test"
	workloadPath  = "/e2e" // in the image
)

// importWorkload builds the image of the tests' pods and gives it to the nodes. The binary stays in e.dir, for
// processes of nodes.
func (e *env) importWorkload(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", e.binary(), "./test/e2e/workload/cmd")
	cmd.Dir, cmd.Env = e.root, append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the workload: %w: %s", err, out)
	}
	archive := filepath.Join(e.dir, "workload.tar")
	if err := cluster.WriteImage(archive, workloadImage, workloadPath, e.binary()); err != nil {
		return err
	}
	return e.ImportImages(ctx, archive)
}

func (e *env) binary() string { return filepath.Join(e.dir, "e2e") }

// deployment is one of servers; clients are the same with nobody calling them.
type deployment struct {
	namespace, name string
	replicas        int    // 0 is 1
	app             string // label, what Services select; "" is the name
	serves          string // what it calls itself; "" is the name
	node            string // "" is any: replicas spread over the nodes
	account         string // service account, made besides; "" is default
	host            bool   // in the node's network
	drains          bool   // a pod serves on for 3 s when it is ended, until no node sends to it any more
	hook            bool   // the kubelet asks for /drain before it stops a pod
	grace           string // YAML of terminationGracePeriodSeconds, lifecycle and the like, for the pod; "" is none
}

func (d deployment) manifest() string {
	if d.app == "" {
		d.app = d.name
	}
	if d.serves == "" {
		d.serves = d.name
	}
	placement := `
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {deployment: ` + d.name + `}}}`
	if d.node != "" {
		placement = "\n      nodeSelector: {kubernetes.io/hostname: " + d.node + "}"
	}
	drain := ""
	if d.drains {
		drain = "\n          lifecycle: {preStop: {sleep: {seconds: 3}}}"
	}
	if d.hook {
		drain = fmt.Sprintf("\n          lifecycle: {preStop: {httpGet: {path: /drain, port: %d}}}", workload.PortHTTP)
	}
	account := ""
	if d.account == "" {
		d.account = "default"
	} else {
		account = fmt.Sprintf("---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s, namespace: %s}\n", d.account, d.namespace)
	}
	if d.host {
		placement += "\n      hostNetwork: true\n      dnsPolicy: ClusterFirstWithHostNet"
	}
	return account + fmt.Sprintf(`---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  replicas: %[3]d
  selector: {matchLabels: {deployment: %[2]s}}
  template:
    metadata: {labels: {deployment: %[2]s, app: %[4]s}}
    spec:
      serviceAccountName: %[6]s%[7]s%[8]s
      containers:
        - name: server
          image: %[9]s
          imagePullPolicy: IfNotPresent
          args: [serve, %[5]s]
          ports: [{containerPort: %[10]d}, {containerPort: %[11]d}, {containerPort: %[12]d, protocol: UDP}]
          readinessProbe: {httpGet: {path: /, port: %[10]d}, periodSeconds: 1}%[13]s
`, d.namespace, d.name, max(d.replicas, 1), d.app, d.serves, d.account, placement, d.grace, workloadImage,
		workload.PortHTTP, workload.PortBytes, workload.PortUDP, drain)
}

// service selects the pods of an app: HTTP on 80, bytes on 70, datagrams on 53.
func service(namespace, name, app string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  selector: {app: %[3]s}
  ports:
    - {name: http, port: 80, targetPort: %[4]d}
    - {name: bytes, port: 70, targetPort: %[5]d}
    - {name: datagrams, port: 53, targetPort: %[6]d, protocol: UDP}
`, namespace, name, app, workload.PortHTTP, workload.PortBytes, workload.PortUDP)
}

// backend is a Service of a route and its weight.
type backend struct {
	name   string
	weight int
}

// route sends requests for a Service to others, by weight.
func route(namespace, name, parent string, backends ...backend) string {
	var refs strings.Builder
	for _, b := range backends {
		fmt.Fprintf(&refs, "\n        - {name: %s, port: 80, weight: %d}", b.name, b.weight)
	}
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: %s}
spec:
  parentRefs: [{group: "", kind: Service, name: %s, port: 80}]
  rules:
    - backendRefs:%s
`, name, namespace, parent, refs.String())
}

// deploy applies Deployments and waits until they run.
func deploy(t testing.TB, all ...deployment) {
	t.Helper()
	for _, d := range all {
		apply(t, d.manifest())
	}
	for _, d := range all {
		rolledOut(t, d.namespace, "deployment/"+d.name)
	}
}

// rolledOut waits for the end of a rollout.
func rolledOut(t testing.TB, namespace string, what ...string) {
	t.Helper()
	for _, w := range what {
		kubectl(t, "-n", namespace, "rollout", "status", w, "--timeout="+settle.String())
	}
}

// clusterIP gives the address of a Service.
func clusterIP(t testing.TB, namespace, name string) string {
	t.Helper()
	var s struct{ Spec struct{ ClusterIP string } }
	if err := read(t, "v1", "Service", namespace, name, &s); err != nil {
		t.Fatal(err)
	}
	return s.Spec.ClusterIP
}

// pod is what tests read of one.
type pod struct {
	Metadata struct {
		Namespace, Name, UID string
		DeletionTimestamp    string
	}
	Spec   struct{ NodeName string }
	Status struct {
		Phase, PodIP      string
		Conditions        []condition
		ContainerStatuses []struct{ RestartCount int }
	}
}

// allPods lists the pods with a label.
func allPods(t testing.TB, namespace, label string) []pod {
	t.Helper()
	return list[pod](t, "v1", "Pod", namespace, "labelSelector="+label)
}

// podsOf lists the pods with a label that are not on their way out.
func podsOf(t testing.TB, namespace, label string) []pod {
	t.Helper()
	var out []pod
	for _, p := range allPods(t, namespace, label) {
		if p.Metadata.DeletionTimestamp == "" {
			out = append(out, p)
		}
	}
	return out
}

// podOf gives the one pod of a Deployment.
func podOf(t testing.TB, namespace, name string) pod {
	t.Helper()
	all := podsOf(t, namespace, "deployment="+name)
	if len(all) != 1 {
		t.Fatalf("Deployment %s/%s has %d pods, want 1", namespace, name, len(all))
	}
	return all[0]
}

// in runs the workload's command in a Deployment's pod and gives what it printed.
func in(t testing.TB, namespace, name string, stdin []byte, args ...string) (string, error) {
	t.Helper()
	all := append([]string{"-n", namespace, "exec", "-i", "deployment/" + name, "--", workloadPath}, args...)
	ctx, cancel := bounded(t)
	defer cancel()
	cmd := mesh.KubectlCommand(ctx, all...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("in %s/%s: %s: %w: %s", namespace, name, strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// call sends one request from a Deployment's pod.
func call(t testing.TB, namespace, name, url string, hostAndHeaders ...string) workload.Answer {
	t.Helper()
	out, err := in(t, namespace, name, nil, append([]string{"call", url}, hostAndHeaders...)...)
	if err != nil {
		t.Fatal(err)
	}
	var a workload.Answer
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return a
}

// events lists the messages of an object's events, with their reasons.
func events(t testing.TB, namespace, kind, name string) []string {
	t.Helper()
	type event struct{ Type, Reason, Message string }
	var out []string
	query := "fieldSelector=involvedObject.kind=" + kind + ",involvedObject.name=" + name
	for _, e := range list[event](t, "v1", "Event", namespace, query) {
		out = append(out, e.Type+" "+e.Reason+": "+e.Message)
	}
	return out
}

// nodeProcess is a command that runs as a process of a node, in its cgroup: it reaches Services.
func nodeProcess(ctx context.Context, node string, args ...string) (*exec.Cmd, error) {
	join := `echo $$ > /run/cgroup2/system/cgroup.procs && exec "$@"`
	return mesh.NodeCommand(ctx, node, append([]string{"sh", "-c", join, "sh"}, args...)...)
}

// onNode runs the workload's command as a process of a node.
func onNode(t testing.TB, node string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	cmd, err := nodeProcess(ctx, node, append([]string{mesh.binary()}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("on %s: %s: %w: %s", node, strings.Join(args, " "), err, out)
	}
	return string(out), err
}
