package pods

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
	"github.com/weft-mesh/weft/internal/testenv"
)

const network = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}`

// node is a machine with an agent, Envoy and a container runtime's folders.
type node struct {
	t        testing.TB
	api      *apiServer
	lab      *lab.Lab
	dir      string
	weft     string
	args     []string
	cleanup  []string
	before   []string // files of others
	agent    *exec.Cmd
	agentLog string
	health   string // address of the agent's probes
}

// pins is where the agent pins what it loads.
func (n *node) pins() string { return "/sys/fs/bpf/" + n.lab.Prefix }

func newNode(t testing.TB) *node {
	testenv.Root(t)
	n := &node{t: t, api: newAPIServer(t), dir: t.TempDir(), weft: testenv.Weft(t)}
	n.lab = testenv.Lab(t)
	n.health = netip.AddrPortFrom(n.lab.Gateway, 15921).String()
	root, err := lab.CgroupMount()
	if err != nil {
		t.Fatal(err)
	}
	n.agentLog = n.path("agent.log")
	for _, d := range []string{"conf", "bin"} {
		if err := os.Mkdir(n.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	shared := []string{
		"--run", n.path("run"), "--pins", n.pins(), "--cgroup-root", filepath.Join(root, n.lab.Prefix), "--proxy-cgroup", "envoy",
		"--cni-conf-dir", n.path("conf"), "--cni-bin-dir", n.path("bin"),
	}
	n.args = append([]string{
		"agent", "--kubeconfig", n.api.kubeconfig(t), "--state", n.path("state"), "--node", "n1", "--node-address", n.lab.Gateway.String(),
		"--proxy", "--proxy-args=--envoy=" + testenv.Envoy(t), "--cni", "--cni-log", n.path("cni.log"), "--health-address", n.health,
	}, shared...)
	n.cleanup = append([]string{"cleanup", "--state", n.path("state")}, shared...)
	n.before, _ = filepath.Glob("/dev/shm/envoy_shared_memory_*")
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

// start runs the agent until stop, or the end of the test, which cleans the node up.
func (n *node) start() {
	n.t.Helper()
	log, err := os.OpenFile(n.agentLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.agent = exec.Command(n.weft, n.args...)
	n.agent.Stdout, n.agent.Stderr = log, log
	if err := n.agent.Start(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) stop(sig syscall.Signal) {
	n.t.Helper()
	if n.agent == nil {
		return
	}
	if err := n.agent.Process.Signal(sig); err != nil {
		n.t.Error(err)
	}
	_ = n.agent.Wait() // by a signal
	n.agent = nil
}

// clean takes everything away.
func (n *node) clean() {
	n.t.Helper()
	n.stop(syscall.SIGTERM)
	if out, err := exec.Command(n.weft, n.cleanup...).CombinedOutput(); err != nil {
		n.t.Errorf("weft cleanup: %v\n%s", err, out)
	}
	_ = os.Remove(n.pins()) // empty by now
	if n.t.Failed() {
		for _, f := range []string{n.agentLog, n.path("run/proxy.log"), n.path("cni.log")} {
			text, _ := os.ReadFile(f)
			lines := strings.Split(string(text), "\n")
			n.t.Logf("%s:\n%s", f, strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	}
}

// ready waits for the agent's readiness.
func (n *node) ready() {
	n.t.Helper()
	n.eventually("the agent is ready", func() error {
		resp, err := http.Get("http://" + n.health + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", text)
		}
		return nil
	})
}

// chain puts a network configuration there, and waits for the plugin in it.
func (n *node) chain() {
	n.t.Helper()
	if err := os.WriteFile(n.path("conf/10-a.conflist"), []byte(network), 0o644); err != nil {
		n.t.Fatal(err)
	}
	n.eventually("the plugin is chained", n.chained)
}

func (n *node) eventually(what string, f func() error) {
	n.t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	n.t.Fatalf("%s: %v", what, err)
}

// pod is one that a container runtime makes step by step.
type pod struct {
	*lab.Pod
	n               *node
	namespace, name string
	uid, container  string
}

// newPod makes the network of a pod, and its object, which has no address yet.
func (n *node) newPod(namespace, name string) *pod {
	n.t.Helper()
	p := &pod{
		Pod: testenv.Pod(n.t, n.lab, name), n: n, namespace: namespace, name: name, container: "c-" + name,
		uid: fmt.Sprintf("00000000-0000-4000-8000-%012x", []byte(name[:min(len(name), 6)])),
	}
	p.object("")
	return p
}

// object is what the API server tells of the pod.
func (p *pod) object(ip string) {
	status := map[string]any{"phase": "Pending"}
	if ip != "" {
		status = map[string]any{"phase": "Running", "podIP": ip}
	}
	p.n.api.put("pods", p.namespace+"/"+p.name, object{
		"kind": "Pod", "apiVersion": "v1", "metadata": map[string]any{"namespace": p.namespace, "name": p.name, "uid": p.uid},
		"spec": map[string]any{"nodeName": "n1", "containers": []any{}}, "status": status,
	})
}

// inCgroup puts the pod's processes into a cgroup as the kubelet makes it.
func (p *pod) inCgroup() {
	p.n.t.Helper()
	p.Cgroup = filepath.Join(p.n.lab.Prefix, "kubepods", "besteffort", "pod"+p.uid, p.container)
	root, err := lab.CgroupMount()
	if err != nil {
		p.n.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, p.Cgroup), 0o755); err != nil {
		p.n.t.Fatal(err)
	}
}

// run starts a process in the pod, which listens on port 8080 until the test ends.
func (p *pod) run() {
	p.n.t.Helper()
	p.inCgroup()
	cmd := exec.Command(p.n.weft, "demo-server", "--name", p.name, "--listen", ":8080")
	if err := p.Start(cmd); err != nil {
		p.n.t.Fatal(err)
	}
	p.n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// cni runs the plugin that the agent installed, as the runtime would: the error that it prints, and how long it took.
func (p *pod) cni(command string) (time.Duration, error) {
	p.n.t.Helper()
	conf, err := os.ReadFile(p.n.path("conf/10-a.conflist"))
	if err != nil {
		p.n.t.Fatal(err)
	}
	var list struct{ Plugins []map[string]any }
	if err := json.Unmarshal(conf, &list); err != nil {
		p.n.t.Fatal(err)
	}
	plugin := list.Plugins[len(list.Plugins)-1]
	plugin["cniVersion"], plugin["name"] = "1.0.0", "pods"
	plugin["prevResult"] = map[string]any{
		"cniVersion": "1.0.0", "ips": []any{map[string]any{"address": p.Address.String() + "/24"}}, "dns": map[string]any{},
	}
	in, err := json.Marshal(plugin)
	if err != nil {
		p.n.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.n.path("bin"), fmt.Sprint(plugin["type"])))
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + p.container, "CNI_NETNS=" + p.NetNS, "CNI_IFNAME=eth0", "CNI_PATH=" + p.n.path("bin"),
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=" + p.namespace + ";K8S_POD_NAME=" + p.name + ";K8S_POD_UID=" + p.uid,
	}
	cmd.Stdin = bytes.NewReader(in)
	began := time.Now()
	out, err := cmd.Output()
	took := time.Since(began)
	if err == nil {
		return took, nil
	}
	return took, errors.New(string(out))
}

// joined reports whether Envoy listens in the pod and, if it is strict, weft tunnel does too and the kernel refuses what is in
// the clear.
func (p *pod) joined(strict bool) error {
	ports := []string{"15001", "15002"}
	if strict {
		ports = append(ports, "15003")
	}
	for _, port := range ports {
		c, err := p.Dial(context.Background(), "tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		} else if !errors.Is(err, syscall.ECONNRESET) { // weft tunnel resets at once what the kernel did not lead there
			return fmt.Errorf("port %s in pod %s: %w", port, p.name, err)
		}
	}
	if !strict {
		return nil
	}
	for _, port := range []string{"15008", "15009"} {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(p.Address.String(), port), time.Second)
		if err != nil {
			return fmt.Errorf("port %s of pod %s: %w", port, p.name, err)
		}
		c.Close()
	}
	return p.refuses()
}

// refuses reports whether the pod, whose process listens, refuses a connection in the clear.
func (p *pod) refuses() error {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(p.Address.String(), "8080"), time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("pod %s takes a connection in the clear", p.name)
	}
	return nil
}

// always looks at something over and over until stop is called, which gives how often, and the first error.
func always(f func() error) (stop func() (int, error)) {
	var mu sync.Mutex
	var first error
	count := 0
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond):
			}
			err := f()
			mu.Lock()
			count++
			if first == nil {
				first = err
			}
			mu.Unlock()
		}
	}()
	return func() (int, error) {
		close(done)
		<-ended
		return count, first
	}
}
