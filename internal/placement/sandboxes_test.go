package placement

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/state"
)

// testNode is a machine with the objects that an API server would have.
type testNode struct {
	*machine
	objs   *kube.Objects
	folder *manifests.Folder
	st     *state.State // of the agent that runs
	loaded chan struct{}
	log    strings.Builder
}

func newTestNode(t *testing.T) *testNode {
	n := &testNode{machine: newMachine(t), loaded: make(chan struct{})}
	n.mkdir("manifests")
	n.mkdir("run")
	n.objs = kube.NewObjects(state.NewDB())
	n.folder = manifests.NewFolder(n.path("manifests"), n.objs, manifests.FolderOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.folder.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

// sandboxes starts as a new agent does, with tables that hold the same objects.
func (n *testNode) sandboxes() *Sandboxes {
	n.st = state.New(state.NewDB())
	s := NewSandboxes(Config{
		Objects: n.objs, State: n.st, Loaded: n.loaded, Node: "n1", Scanner: n.scanner(), File: n.path("run/placements.json"),
		Log: slog.New(slog.NewTextHandler(&n.log, nil)),
	})
	s.Own()
	return s
}

// rows returns, by pod and UID, the name of the namespace and the addresses.
func (n *testNode) rows() map[string]string {
	out := map[string]string{}
	for p := range n.st.Placements.All(n.st.Snapshot()) {
		text := filepath.Base(p.NetNS)
		for _, a := range p.Addresses {
			text += " " + a.String()
		}
		if id, err := identify(p.NetNS); err == nil && id != idOf(p) {
			text += " (another namespace)"
		}
		out[p.Namespace+"/"+p.Name+" "+p.UID] = text
	}
	return out
}

// pods makes the objects of exactly these pods, given as name=uid, and of one on another node and one in the host's
// network. In a folder UIDs are given, but for static pods'.
func (n *testNode) pods(in ...string) {
	n.t.Helper()
	old, err := filepath.Glob(n.path("manifests/*"))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, file := range old {
		n.remove(strings.TrimPrefix(file, n.dir+"/"))
	}
	pod := func(name, uid, spec string) {
		n.write("manifests/"+name+".yaml", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: shop, "+
			"annotations: {kubernetes.io/config.mirror: %q}}\nspec: {%s, containers: [{name: c, image: i}]}\n", name, uid, spec))
	}
	for _, p := range in {
		name, uid, _ := strings.Cut(p, "=")
		pod(name, uid, "nodeName: n1")
	}
	pod("far", "far", "nodeName: n2")
	pod("host", "host", "nodeName: n1, hostNetwork: true")
	var got []string
	for range 1000 {
		got = nil
		for _, p := range n.objs.NodePods(n.objs.DB.Snapshot(), "n1") {
			got = append(got, p.Name+"="+p.UID)
		}
		slices.Sort(in)
		if slices.Equal(got, in) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.t.Fatalf("objects %v, want %v; %v", got, in, n.objs.AllProblems(n.objs.DB.Snapshot()))
}

func (n *testNode) look(s *Sandboxes) { s.look(n.objs.NodePods(n.objs.DB.Snapshot(), "n1")) }

func (n *testNode) want(what string, want map[string]string) {
	n.t.Helper()
	if got := n.rows(); !maps.Equal(got, want) {
		n.t.Errorf("%s: %v, want %v\n%s", what, got, want, n.log.String())
	}
}

func (n *testNode) sandbox(name, uid, container, netns string) Sandbox {
	return Sandbox{
		Namespace: "shop", Name: name, UID: uid, ContainerID: container, NetNS: "/var/run/netns/" + netns,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
	}
}

func TestSandboxesComeAndGo(t *testing.T) {
	n := newTestNode(t)
	n.namespace("cni-1")
	n.namespace("cni-2")
	p := n.sandboxes()
	add := func(s Sandbox) {
		t.Helper()
		if err := p.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	add(n.sandbox("web", uidA, "c1", "cni-1"))
	n.want("before its object", map[string]string{"shop/web " + uidA: "cni-1 10.0.0.1"})
	n.pods()
	n.look(p)
	n.want("an ADD is known before its object", map[string]string{"shop/web " + uidA: "cni-1 10.0.0.1"})
	n.pods("web=" + uidA)
	n.look(p)
	if !p.Has(uidA, "c1", "") || p.Has(uidA, "c0", "/var/run/netns/cni-1") || p.Has(uidB, "c1", "") {
		t.Error("Has is wrong")
	}

	add(n.sandbox("web", uidA, "c2", "cni-2")) // a new sandbox
	p.Delete(uidA, "c1", "/var/run/netns/cni-1")
	n.want("a late DEL of the sandbox before", map[string]string{"shop/web " + uidA: "cni-2 10.0.0.1"})
	p.Keep([]string{"c2", "other"})
	n.want("a GC that names it", map[string]string{"shop/web " + uidA: "cni-2 10.0.0.1"})
	p.Delete(uidA, "c2", "")
	p.Delete(uidB, "c9", "")
	n.want("DEL", map[string]string{})

	n.process(10, 1, "cni-2")
	n.cgroup("kubepods/pod"+uidA+"/c", 10)
	n.look(p)
	n.want("a process that lives a moment longer than the DEL", map[string]string{})
	add(n.sandbox("web", uidA, "c3", "cni-1"))
	p.Keep(nil)
	n.want("a GC that does not name it", map[string]string{})

	add(n.sandbox("web", uidA, "c4", "cni-1"))
	n.look(p)
	p.Keep(nil)
	n.want("a GC of another network, while the pod runs", map[string]string{"shop/web " + uidA: "cni-1 10.0.0.1"})
	n.pods()
	n.look(p)
	n.want("the object is gone", map[string]string{})
	if err := p.Add(n.sandbox("web", uidA, "c5", "missing")); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a namespace that is not there: %v", err)
	}
}

func TestNamespaceByAnotherPath(t *testing.T) {
	n := newTestNode(t)
	n.namespace("cni-1")
	n.process(10, 1, "cni-1")
	p := n.sandboxes()
	s := n.sandbox("web", uidA, "c1", "")
	s.NetNS = n.path("proc/10/ns/net")
	if err := p.Add(s); err != nil {
		t.Fatal(err)
	}
	n.want("found by its inode", map[string]string{"shop/web " + uidA: "cni-1 10.0.0.1"})
}

func TestNamespacesThatGo(t *testing.T) {
	n := newTestNode(t)
	n.namespace("cni-1")
	n.pods("web=" + uidA)
	p := n.sandboxes()
	if err := p.Add(n.sandbox("web", uidA, "c1", "cni-1")); err != nil {
		t.Fatal(err)
	}
	n.write("netns/other", "") // keeps the number from being given again
	n.remove("netns/cni-1")
	n.write("netns/keep", "")
	n.look(p)
	n.want("its name is gone", map[string]string{})
}

func TestPodsThatRanBefore(t *testing.T) {
	n := newTestNode(t)
	for i, name := range []string{"cni-1", "cni-2"} {
		n.namespace(name)
		n.process(10+i, 1, name)
	}
	n.cgroup("kubepods/pod"+uidA+"/c", 10)
	n.pods("web="+uidA, "db="+uidB)
	p := n.sandboxes()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	select {
	case <-p.Placed():
		t.Error("scanned before objects were loaded")
	case <-time.After(20 * time.Millisecond):
	}
	close(n.loaded)
	<-p.Placed()
	n.want("first scan", map[string]string{"shop/web " + uidA: "cni-1"})

	n.cgroup("kubepods/pod"+uidB+"/c", 11) // it started while no plugin was there
	for range 500 {
		if len(n.rows()) == 2 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.want("later scan", map[string]string{"shop/web " + uidA: "cni-1", "shop/db " + uidB: "cni-2"})
	n.pods("db=" + uidB)
	for range 500 {
		if len(n.rows()) == 1 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.want("a pod that is gone", map[string]string{"shop/db " + uidB: "cni-2"})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNextAgentKnowsAtOnce(t *testing.T) {
	n := newTestNode(t)
	n.namespace("cni-1")
	n.namespace("cni-2")
	n.pods("web="+uidA, "db="+uidB)
	p := n.sandboxes()
	for _, s := range []Sandbox{n.sandbox("web", uidA, "c1", "cni-1"), n.sandbox("db", uidB, "c2", "cni-2")} {
		if err := p.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	n.remove("netns/cni-2")
	p = n.sandboxes()
	n.want("before anything was read", map[string]string{"shop/web " + uidA: "cni-1 10.0.0.1"})
	p.Delete(uidA, "c1", "")
	n.want("its DEL", map[string]string{})

	for _, text := range []string{"{", "[null]", `[{"uid":"x","netns":"/etc"}]`, ""} {
		n.write("run/placements.json", text)
		n.sandboxes()
		n.want("file "+text, map[string]string{})
	}
	if !strings.Contains(n.log.String(), "placements.json") {
		t.Errorf("log: %s", n.log.String())
	}
}

func TestPodsThatCannotJoinAreLogged(t *testing.T) {
	n := newTestNode(t)
	n.namespace("cni-1")
	n.process(10, 1, "cni-1")
	n.remove("netns/cni-1")
	n.cgroup("kubepods/pod"+uidA+"/c", 10)
	n.pods("web=" + uidA)
	p := n.sandboxes()
	for range 3 {
		n.look(p)
	}
	if c := strings.Count(n.log.String(), "shop/web"); c != 1 {
		t.Errorf("logged %d times: %s", c, n.log.String())
	}
	id, err := identify(n.path("proc/10/ns/net"))
	if err != nil {
		t.Fatal(err)
	}
	n.write("proc/thread-self/mountinfo", fmt.Sprintf("23 22 0:4 net:[%d] /run/netns/cni-1 rw - nsfs nsfs rw\n", id.ino))
	for range 3 {
		n.look(p)
	}
	if c := strings.Count(n.log.String(), "unmount what was mounted over"); c != 1 {
		t.Errorf("logged %d times: %s", c, n.log.String())
	}
	n.remove("cgroup")
	for range 3 {
		n.look(p)
	}
	if c := strings.Count(n.log.String(), "failed to search"); c != 1 {
		t.Errorf("logged %d times: %s", c, n.log.String())
	}
	if err := os.RemoveAll(filepath.Dir(n.path("run/placements.json"))); err != nil {
		t.Fatal(err)
	}
	n.namespace("cni-2")
	if err := p.Add(n.sandbox("web", uidA, "c1", "cni-2")); err != nil {
		t.Errorf("a file that cannot be written: %v", err)
	}
}

// TestKubeletsCgroupsAreKnown: they hold the pods in the host's network too, which have no placement.
func TestKubeletsCgroupsAreKnown(t *testing.T) {
	n := newTestNode(t)
	p := n.sandboxes()
	search := func() (rows []string) {
		p.podCgroupsAt = time.Time{}
		p.findPodCgroups()
		for c := range n.st.PodCgroups.All(n.st.Snapshot()) {
			rows = append(rows, c.Path)
		}
		slices.Sort(rows)
		return rows
	}
	if got := search(); len(got) != 0 || !strings.Contains(n.log.String(), "was not found") {
		t.Errorf("without a kubelet: %v, log %s", got, n.log.String())
	}
	n.cgroup("system.slice/kubelet.service", 1)
	n.cgroup("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"+strings.ReplaceAll(uidA, "-", "_")+".slice", 10)
	n.cgroup("docker/kind/kubelet/kubepods/pod"+uidB+"/kubepods", 11) // the last one is made in a pod
	if got, want := search(), []string{"docker/kind/kubelet/kubepods", "kubepods.slice"}; !slices.Equal(got, want) {
		t.Errorf("cgroups %v, want %v", got, want)
	}
	n.remove("cgroup/docker")
	if got, want := search(), []string{"kubepods.slice"}; !slices.Equal(got, want) {
		t.Errorf("after one is gone: %v, want %v", got, want)
	}
	n.remove("cgroup")
	if got, want := search(), []string{"kubepods.slice"}; !slices.Equal(got, want) {
		t.Errorf("while none can be read: %v, want %v", got, want)
	}
}
