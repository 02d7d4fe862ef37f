package placement

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// folderNode is a machine with the objects of a folder of manifests.
type folderNode struct {
	*machine
	objs   *kube.Objects
	st     *state.State
	loaded chan struct{}
	writer *Manifests
}

func newFolderNode(t *testing.T) *folderNode {
	db := state.NewDB()
	n := &folderNode{machine: newMachine(t), objs: kube.NewObjects(db), st: state.New(db), loaded: make(chan struct{})}
	n.writer = NewManifests(ManifestsConfig{Objects: n.objs, State: n.st, NetNSDir: n.path("netns"), Loaded: n.loaded})
	return n
}

// pod makes the object of a pod with annotations.
func (n *folderNode) pod(name, annotations string) {
	n.t.Helper()
	n.remove("manifests")
	n.write("manifests/"+name+".yaml", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: shop, annotations: "+
		"{kubernetes.io/config.mirror: u, %s}}\nspec: {containers: [{name: c, image: i}]}\n", name, annotations))
	f := manifests.NewFolder(n.path("manifests"), n.objs, manifests.FolderOptions{})
	if err := f.Load(); err != nil {
		n.t.Fatal(err)
	}
	if p := n.objs.AllProblems(n.objs.DB.Snapshot()); len(p) > 0 {
		n.t.Fatal(p)
	}
}

func (n *folderNode) row(name string) *model.Placement {
	p, _ := n.st.Placements.Get(n.st.Snapshot(), model.PlacementKey("shop", name, "u"))
	return p
}

// want checks the row of pod "web": the name of its namespace, and whether that is there.
func (n *folderNode) want(what, netns string, there bool) {
	n.t.Helper()
	p := n.row("web")
	if netns == "" {
		if p != nil {
			n.t.Errorf("%s: %+v", what, p)
		}
		return
	}
	id, _ := identify(n.path("netns/" + netns))
	if p == nil || p.NetNS != n.path("netns/"+netns) || idOf(p) != id || (p.Inode != 0) != there {
		n.t.Errorf("%s: %+v, want namespace %s %+v", what, p, netns, id)
	}
}

func TestManifestsNamePlacements(t *testing.T) {
	n := newFolderNode(t)
	n.namespace("a")
	n.pod("web", "weft.io/netns: a, weft.io/cgroup: /pods/web")
	n.pod("far", "weft.io/ip: 10.0.0.1")
	n.writer.Sync()
	n.want("a namespace that is there", "a", true)
	if p := n.row("web"); p.Cgroup != "pods/web" {
		t.Errorf("cgroup %q", p.Cgroup)
	}
	if p := n.row("far"); p != nil {
		t.Errorf("a pod without a namespace: %+v", p)
	}
	n.pod("web", "weft.io/netns: b")
	n.writer.follow()
	n.want("one that is not there yet", "b", false)
	n.namespace("b")
	n.writer.Sync()
	n.want("now it is", "b", true)
	n.remove("netns/b")
	n.writer.Sync()
	n.want("it went", "b", false)
	n.pod("web", "weft.io/ip: 10.0.0.1")
	n.writer.follow()
	n.want("no annotation", "", false)
}

func TestManifestsRun(t *testing.T) {
	n := newFolderNode(t)
	n.namespace("a")
	n.pod("web", "weft.io/netns: a")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.writer.Run(ctx) }()
	select {
	case <-n.writer.Placed():
		t.Error("placed before the manifests were read")
	case <-time.After(20 * time.Millisecond):
	}
	close(n.loaded)
	<-n.writer.Placed()
	n.want("at the start", "a", true)
	feed := n.st.Feed()
	defer feed.Close()
	n.pod("web", "weft.io/netns: b")
	until(t, feed, func() error {
		if p := n.row("web"); p.NetNS != n.path("netns/b") {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// until waits for changes of the tables until f returns nil.
func until(t *testing.T, feed *state.Feed, f func() error) {
	t.Helper()
	end := time.After(30 * time.Second)
	for {
		feed.Take()
		err := f()
		if err == nil {
			return
		}
		select {
		case <-feed.Ready():
		case <-end:
			t.Fatal(err)
		}
	}
}
