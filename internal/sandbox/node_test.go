package sandbox_test

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/examples"
	"github.com/weft-mesh/weft/internal/demo/workload"
	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/sandbox"
	"github.com/weft-mesh/weft/internal/testenv"
)

var options = sandbox.Options{Name: "wsbx", Subnet: netip.MustParsePrefix("10.80.0.0/24")}

// The test binary plays weft for the pods.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "demo-server" {
		name, listen := strings.TrimPrefix(os.Args[2], "--name="), strings.TrimPrefix(os.Args[3], "--listen=")
		if workload.Serve(context.Background(), name, listen) != nil {
			os.Exit(1)
		}
	}
	if len(os.Args) > 1 && os.Args[1] == "hold-node" {
		if err := holdNode(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if len(os.Args) > 1 && os.Args[1] == "demo-client" {
		time.Sleep(time.Minute)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func node(t *testing.T) *sandbox.Node {
	t.Helper()
	testenv.Root(t)
	n, err := sandbox.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func TestApplyPlaysKubernetes(t *testing.T) {
	n := node(t)
	if err := n.Apply(t.Context(), examples.FS, "canary"); err != nil {
		t.Fatal(err)
	}
	web, client := n.Pod("canary", "web-v1"), n.Pod("canary", "client")
	r, err := load.Run(t.Context(), load.Config{
		URL: "http://" + netip.AddrPortFrom(web.Address, 8080).String(), Dial: client.Dial, Requests: 10})
	if err != nil || r.Failed != 0 || r.Backends["v1"] != 10 {
		t.Errorf("%v, %+v", err, r)
	}
	for file, want := range map[string][]string{
		"canary/web-v1.yaml": {
			"# Version v1 of the shop's web server", "weft.io/netns: " + web.NetNSName, "weft.io/cgroup: " + web.Cgroup,
			"podIP: " + web.Address.String(), "ip: " + web.Address6.String(),
			"clusterIP: " + n.ServiceIP("canary", "web-v1").String(), "image: ghcr.io/weft-mesh/weft",
		},
		"canary/route.yaml": {"# Of the requests to Service web", "weight: 90"},
	} {
		text, err := os.ReadFile(filepath.Join(n.Manifests(), file))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(text), w) {
				t.Errorf("%s lacks %q:\n%s", file, w, text)
			}
		}
	}
	hosts, _ := os.ReadFile("/etc/netns/" + client.NetNSName + "/hosts")
	if !strings.Contains(string(hosts), n.ServiceIP("canary", "web").String()+" web.canary.svc.cluster.local") {
		t.Errorf("hosts: %s", hosts)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	n := node(t)
	if err := n.Apply(t.Context(), examples.FS, "l4"); err != nil {
		t.Fatal(err)
	}
	ns, dir := n.Pod("l4", "client").NetNS, n.Dir
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob("/etc/netns/wsbx-*")
	for _, p := range append(left, ns, dir, "/sys/class/net/wsbx-br") {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s is still there", p)
		}
	}
}

func TestOnlyOneAtATime(t *testing.T) {
	node(t)
	_, err := sandbox.New(options)
	if err == nil || !strings.Contains(err.Error(), "another one") {
		t.Errorf("a second node of the same name: %v", err)
	}
}

func TestNewTakesTheRestOfAKilledNode(t *testing.T) {
	testenv.Root(t)
	first := exec.Command(os.Args[0], "hold-node")
	first.Stderr = os.Stderr
	out, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" {
		t.Errorf("%q, %v", line, err)
	}
	_ = first.Process.Kill()
	_ = first.Wait()
	again := node(t)
	if _, err := os.Stat(filepath.Join(again.Manifests(), "l4")); err == nil {
		t.Error("manifests of the first node are still there")
	}
	if err := again.Apply(t.Context(), examples.FS, "l4"); err != nil {
		t.Error(err)
	}
}

// holdNode makes a node and waits to be killed.
func holdNode() error {
	n, err := sandbox.New(options)
	if err != nil {
		return err
	}
	if err := n.Apply(context.Background(), examples.FS, "l4"); err != nil {
		return err
	}
	fmt.Println("up")
	time.Sleep(time.Minute)
	return nil
}

func TestEditAndWrite(t *testing.T) {
	n := node(t)
	if err := n.Write("a/b.yaml", []byte("weight: 90\n")); err != nil {
		t.Fatal(err)
	}
	if err := n.Edit("a/b.yaml", func(s string) string { return strings.ReplaceAll(s, "90", "50") }); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(n.Manifests(), "a/b.yaml")); string(got) != "weight: 50\n" {
		t.Errorf("%q", got)
	}
	if err := n.Edit("a/b.yaml", func(s string) string { return s }); err == nil {
		t.Error("an edit that changes nothing passes")
	}
	left, _ := filepath.Glob(filepath.Join(n.Manifests(), "*/*"))
	if len(left) != 1 {
		t.Errorf("files in the watched folder: %v", left)
	}
}

func TestApplyNamesTheFile(t *testing.T) {
	n := node(t)
	if err := n.Apply(t.Context(), os.DirFS(t.TempDir()), "nothing"); err == nil {
		t.Error("an empty folder passes")
	}
	dir := t.TempDir()
	_ = os.MkdirAll(dir+"/bad", 0o755)
	_ = os.WriteFile(dir+"/bad/x.yaml", []byte("kind: [\n"), 0o644)
	if err := n.Apply(t.Context(), os.DirFS(dir), "bad"); err == nil || !strings.Contains(err.Error(), "bad/x.yaml") {
		t.Error(err)
	}
}

func TestStartAgentClearsHooksOfADeadNode(t *testing.T) {
	n := node(t)
	// A pin directory and a folder of manifests are what a killed one leaves; pins in it are removed with it.
	dead := "wsbxdead"
	pins, run := "/sys/fs/bpf/"+dead, "/run/"+dead
	if os.MkdirAll(pins, 0o700) != nil {
		if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700"); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{pins + "/links", pins + "/maps", pins + "/pods", run + "/manifests"} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	n.Binary = "/bin/true" // no agent is needed to see what is done before it starts
	if err := n.StartAgent(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{pins + "/links", run} {
		if _, err := os.Stat(d); err == nil {
			t.Errorf("%s is still there", d)
		}
	}
}
