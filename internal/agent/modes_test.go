package agent

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/cni"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/state"
)

func TestModesFollowObjects(t *testing.T) {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "namespaces.json")
	manifest := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name+".yaml")
		var err error
		if text == "" {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, []byte("apiVersion: v1\n"+text+"\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	namespace := func(name, labels string) {
		manifest(name, "kind: Namespace\nmetadata: {name: "+name+", labels: {"+labels+"}}")
	}
	pod := func(name, labels, spec string) {
		manifest(name, "kind: Pod\nmetadata: {name: "+name+", namespace: mixed, labels: {"+labels+"}}\nspec: {containers: [{name: c, image: i}]"+spec+"}")
	}
	namespace("plain", "")
	namespace("bank", "weft.io/mtls: strict")
	namespace("weft-system", "weft.io/mtls: strict") // whose pods may always start
	namespace("mixed", "weft.io/mtls: permissive")
	pod("host", "weft.io/mtls: strict", ", hostNetwork: true")
	pod("quiet", "weft.io/mtls: disabled", "")

	objs := kube.NewObjects(state.NewDB())
	folder := manifests.NewFolder(dir, objs, manifests.FolderOptions{Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- folder.Run(ctx) }()
	m := newModes(objs, folder.Loaded(), file, slog.Default())
	go func() { done <- m.run(ctx) }()
	defer func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}()
	want := func(what string, want cni.Modes) {
		t.Helper()
		var got cni.Modes
		for range 1000 {
			if got, _ = cni.ReadModes(file); maps.Equal(got, want) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
	<-m.known
	want("start", cni.Modes{"plain": {}, "bank": {Label: true}, "mixed": {}, "weft-system": {}})
	for namespace, strict := range map[string]bool{"plain": false, "bank": true, "unknown": true} {
		if m.strict(namespace) != strict {
			t.Errorf("%s: strict is %v", namespace, !strict)
		}
	}
	pod("loud", "weft.io/mtls: strict", "")
	want("a strict pod", cni.Modes{"plain": {}, "bank": {Label: true}, "mixed": {Pod: true}, "weft-system": {}})
	manifest("loud", "")
	namespace("bank", "weft.io/mtls: permissive")
	namespace("new", "")
	want("a pod that was strict, and labels", cni.Modes{"plain": {}, "bank": {}, "mixed": {Pod: true}, "new": {}, "weft-system": {}})
	manifest("host", "")
	manifest("quiet", "")
	manifest("mixed", "")
	want("a namespace that is gone", cni.Modes{"plain": {}, "bank": {}, "new": {}, "weft-system": {}})

	next := newModes(objs, make(chan struct{}), file, slog.Default())
	if next.strict("plain") || !next.strict("unknown") {
		t.Error("the next agent does not know before it has read the objects")
	}
	<-next.known
}

func TestModesOfANodeThatIsNew(t *testing.T) {
	m := newModes(kube.NewObjects(state.NewDB()), make(chan struct{}), filepath.Join(t.TempDir(), "x"), slog.Default())
	if !m.strict("default") {
		t.Error("nothing is known, and pods may start outside the mesh")
	}
	select {
	case <-m.known:
		t.Error("nothing was read")
	default:
	}
}

// TestModesOnAFullDisk: the plugin is installed all the same, and lets no pod start while there is no agent.
func TestModesOnAFullDisk(t *testing.T) {
	loaded := make(chan struct{})
	close(loaded)
	file := filepath.Join(t.TempDir(), "no such folder", "namespaces.json")
	m := newModes(kube.NewObjects(state.NewDB()), loaded, file, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-m.known:
	case <-time.After(time.Minute):
		t.Error("the plugin waits for a file that cannot be written")
	}
}
