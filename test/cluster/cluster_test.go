//go:build cluster

package cluster

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weft-mesh/weft/internal/testenv"
)

const podManifest = `
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  containers: [{name: echo, image: "registry.k8s.io/gateway-api/conformance/echo-advanced:v0.1.0", imagePullPolicy: IfNotPresent}]
`

// TestUpAndDown takes down a cluster that is up.
func TestUpAndDown(t *testing.T) {
	testenv.Root(t)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	if err := Down(ctx); err != nil {
		t.Fatal(err)
	}
	before := traces(t)
	t.Cleanup(func() {
		if err := Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	c, err := Up(ctx, slog.Default(), 1)
	if err != nil {
		t.Fatal(err)
	}
	podAnswers(ctx, t, c)
	nodeIsItself(ctx, t, c)
	outagePasses(ctx, t)
	rebootPasses(ctx, t)

	if err := Down(ctx); err != nil {
		t.Fatal(err)
	}
	after := traces(t)
	for end := time.Now().Add(30 * time.Second); after != before && time.Now().Before(end); after = traces(t) {
		time.Sleep(500 * time.Millisecond) // a process that was killed holds its mounts until the kernel has ended it
	}
	if after != before {
		t.Errorf("before:\n%s\nafter down:\n%s", before, after)
	}
	if _, err := Open(ctx, slog.Default()); !errors.Is(err, ErrNone) {
		t.Errorf("open after down: %v, want ErrNone", err)
	}
}

// podAnswers runs a pod, executes a client in it and reads its log.
func podAnswers(ctx context.Context, t *testing.T, c *Cluster) {
	t.Helper()
	mustKubectl(ctx, t, c, nil, "wait", "--for=create", "serviceaccount/default", "--timeout=60s")
	mustKubectl(ctx, t, c, []byte(podManifest), "apply", "-f", "-")
	mustKubectl(ctx, t, c, nil, "wait", "--for=condition=Ready", "pod/echo", "--timeout=120s")
	ip := mustKubectl(ctx, t, c, nil, "get", "pod/echo", "--output=jsonpath={.status.podIP}")
	if out := mustKubectl(ctx, t, c, nil, "exec", "echo", "--", "client", "http://"+ip+":8080/"); !strings.Contains(out, "Hostname=echo") {
		t.Errorf("client says:\n%s", out)
	}
	if out := mustKubectl(ctx, t, c, nil, "logs", "echo"); !strings.Contains(out, "HTTP/1.1 Request") {
		t.Errorf("the server's log lacks the request:\n%s", out)
	}
}

// nodeIsItself sees that a node is a machine apart, and that this one keeps its settings.
func nodeIsItself(ctx context.Context, t *testing.T, c *Cluster) {
	t.Helper()
	cmd, err := c.NodeCommand(ctx, "n1", "sh", "-c", "hostname; cat /proc/sys/kernel/panic; echo mark > /etc/weft-cluster-test; ls /etc/cni/net.d")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if want := "n1\n10\n10-bridge.conflist\n"; err != nil || string(out) != want {
		t.Errorf("in the node: %v, got %q, want %q", err, out, want)
	}
	if _, err := os.Stat("/etc/weft-cluster-test"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the node wrote into /etc is on the machine: %v", err)
	}
	if _, err := c.NodeCommand(ctx, "n7", "true"); err == nil {
		t.Error("a node that is not there takes commands")
	}
}

// outagePasses ends the API server and brings it back, on its machine and with its data, by who only opened the cluster.
func outagePasses(ctx context.Context, t *testing.T) {
	t.Helper()
	c, err := Open(ctx, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	c.API.StopServing()
	if out, err := c.Kubectl(ctx, nil, "get", "pod/echo"); err == nil {
		t.Errorf("the API server answers during its outage: %s", out)
	}
	if err := c.API.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if phase := mustKubectl(ctx, t, c, nil, "get", "pod/echo", "--output=jsonpath={.status.phase}"); phase != "Running" {
		t.Errorf("pod after the outage: %s, want Running", phase)
	}
}

// rebootPasses sees that a reboot takes what is in memory, leaves what is on disk, and starts pods again.
func rebootPasses(ctx context.Context, t *testing.T) {
	t.Helper()
	c, err := Open(ctx, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	inNode := func(script string) string {
		cmd, err := c.NodeCommand(ctx, "n1", "sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
		return string(out)
	}
	inNode("mkdir /run/memory /sys/fs/bpf/memory /var/lib/disk; test -e /run/cgroup2/system/cgroup.procs")
	before := mustKubectl(ctx, t, c, nil, "get", "pod/echo", "--output=jsonpath={.status.podIPs} {.status.containerStatuses[0].containerID}")
	if err := c.RebootNode(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	if out := inNode("ls -d /run/memory /sys/fs/bpf/memory /var/lib/disk 2>/dev/null; true"); out != "/var/lib/disk\n" {
		t.Errorf("left after the reboot: %q", out)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
		out, err := c.Kubectl(ctx, nil, "exec", "echo", "--", "client", "http://127.0.0.1:8080/")
		now := mustKubectl(ctx, t, c, nil, "get", "pod/echo", "--output=jsonpath={.status.podIPs} {.status.containerStatuses[0].containerID}")
		if err == nil && now != before {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the pod does not run after the reboot: %v: %s: before %s, now %s", err, out, before, now)
		}
	}
}

func mustKubectl(ctx context.Context, t *testing.T, c *Cluster, stdin []byte, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(ctx, stdin, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// traces lists what a cluster could leave: links, namespaces, routes, cgroups, mounts, processes, settings.
func traces(t *testing.T) string {
	t.Helper()
	dir, err := Dir()
	if err != nil {
		t.Fatal(err)
	}
	script := `
ls -d /run/netns/wcl-* /run/netns/cni-* 2>/dev/null
ip -o link | grep -o ' wcl[^:@]*'
ip route | grep 10.244
find /sys/fs/cgroup -type d -path '*/wcl*'
grep -l "$DIR" /proc/[0-9]*/mountinfo
pgrep -af "$DIR/"
ls -d "$DIR"
sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys
true`
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), "DIR="+dir)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName(prefix + "-br"); err == nil {
		return string(out) + "bridge"
	}
	return string(out)
}
