package manifests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

// live runs a folder and waits for what its tables hold. All waits end with the test's patience, which is long: no
// test depends on how fast something is.
type live struct {
	*testing.T
	dir    string
	folder *Folder
	objs   *kube.Objects
	feed   *state.Feed
}

const patience = 20 * time.Second

func watchFolder(t *testing.T, dir string) *live {
	t.Helper()
	f, objs := newTestFolder(dir)
	w := &live{T: t, dir: dir, folder: f, objs: objs, feed: objs.DB.Feed()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		w.feed.Close()
	})
	return w
}

func (w *live) ready() *live {
	w.Helper()
	select {
	case <-w.folder.Loaded():
	case <-time.After(patience):
		w.Fatal("the folder was not read")
	}
	return w
}

func (w *live) path(name string) string { return filepath.Join(w.dir, name) }

// version returns the label v of a ConfigMap, or "" where there is none.
func (w *live) version(name string) string {
	c, ok := w.objs.ConfigMaps.Get(w.objs.DB.Snapshot(), "default/"+name)
	if !ok {
		return ""
	}
	return c.Labels["v"]
}

// waitFor waits until the ConfigMap has the version; "" is gone. At no change before may it be other than allowed.
func (w *live) waitFor(name, version string, allowed ...string) {
	w.Helper()
	end := time.After(patience)
	for {
		got := w.version(name)
		if got == version {
			return
		}
		ok := len(allowed) == 0
		for _, a := range allowed {
			ok = ok || got == a
		}
		if !ok {
			w.Fatalf("%s is %q on its way to %q", name, got, version)
		}
		select {
		case <-w.feed.Ready():
			w.feed.Take()
		case <-end:
			w.Fatalf("%s is %q, want %q; problems %v", name, got, version, w.objs.AllProblems(w.objs.DB.Snapshot()))
		}
	}
}

func config(name, version string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\n  labels: {v: %q}\n", name, version)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatchWrites(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), config("a", "1"))
	w := watchFolder(t, dir).ready()
	w.waitFor("a", "1")
	write(t, w.path("a.yaml"), config("a", "2"))
	w.waitFor("a", "2", "1")
	write(t, w.path("b.yaml"), config("b", "1"))
	w.waitFor("b", "1")
	must(t, os.Remove(w.path("a.yaml")))
	w.waitFor("a", "")
	for i := range 300 {
		write(t, w.path(fmt.Sprintf("many-%d.yaml", i)), config(fmt.Sprintf("many-%d", i), "1"))
	}
	for i := range 300 {
		w.waitFor(fmt.Sprintf("many-%d", i), "1")
	}
}

// What the folder says it has taken in is in the tables.
func TestFolderIsUpToDate(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), config("a", "0"))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling.yaml")))
	w := watchFolder(t, dir)
	upToDate := func() {
		t.Helper()
		for end := time.Now().Add(patience); !w.folder.UpToDate(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the folder was not taken in")
			}
		}
	}
	upToDate()
	for i := range 50 {
		v := fmt.Sprint(i)
		if i%2 == 0 {
			write(t, w.path("a.yaml"), config("a", v))
		} else {
			write(t, w.path(".next"), config("a", v))
			must(t, os.Rename(w.path(".next"), w.path("a.yaml")))
		}
		upToDate()
		if got := w.version("a"); got != v {
			t.Fatalf("version %q, want %q", got, v)
		}
	}
	write(t, w.path("bad.yaml"), "{")
	upToDate()
	if p := w.objs.AllProblems(w.objs.DB.Snapshot()); len(p) != 2 {
		t.Errorf("problems %v, want one of the link and one of the bad file", p)
	}
	must(t, os.Remove(w.path("a.yaml")))
	upToDate()
	if got := w.version("a"); got != "" {
		t.Errorf("version %q of an object that went", got)
	}
}

func TestWatchEditors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write(t, file, config("a", "1"))
	w := watchFolder(t, dir).ready()
	w.waitFor("a", "1")
	// A new file is moved over the old one.
	write(t, w.path(".a.yaml.tmp"), config("a", "2"))
	must(t, os.Rename(w.path(".a.yaml.tmp"), file))
	w.waitFor("a", "2", "1")
	// The old file is moved away and written anew.
	must(t, os.Rename(file, w.path("a.yaml~")))
	write(t, file, config("a", "3"))
	w.waitFor("a", "3", "2")
	must(t, os.Remove(w.path("a.yaml~")))
	// The old file is removed and a hard link put in its place.
	write(t, w.path("other"), config("a", "4"))
	must(t, os.Remove(file))
	must(t, os.Link(w.path("other"), file))
	w.waitFor("a", "4", "3")
}

// TestWatchSlowWriter writes a file in pieces, each of which would be a good file or none.
func TestWatchSlowWriter(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write(t, file, config("a", "1")+"---\n"+config("b", "1"))
	w := watchFolder(t, dir).ready()
	w.waitFor("b", "1")
	out, err := os.Create(file)
	must(t, err)
	for i, piece := range []string{"", config("a", "half")[:30], config("a", "half")[30:], "---\n" + config("b", "2")} {
		_, err := out.WriteString(piece)
		must(t, err)
		// Other changes are taken meanwhile, which shows that the folder is being watched.
		name := fmt.Sprintf("marker-%d", i)
		write(t, w.path(name+".yaml"), config(name, "1"))
		w.waitFor(name, "1")
		if a, b := w.version("a"), w.version("b"); a != "1" || b != "1" {
			t.Errorf("after piece %d: a is %q and b %q, of a file that is still being written", i, a, b)
		}
	}
	must(t, out.Close())
	w.waitFor("b", "2", "1")
	w.waitFor("a", "half")
}

func TestWatchSubFolders(t *testing.T) {
	w := watchFolder(t, t.TempDir()).ready()
	must(t, os.MkdirAll(w.path("x/y"), 0o755))
	write(t, w.path("x/y/a.yaml"), config("a", "1"))
	w.waitFor("a", "1")
	write(t, w.path("x/y/a.yaml"), config("a", "2"))
	w.waitFor("a", "2", "1")
	must(t, os.Rename(w.path("x"), w.path("z")))
	write(t, w.path("z/y/b.yaml"), config("b", "1"))
	w.waitFor("b", "1")
	if v := w.version("a"); v != "2" {
		t.Errorf("a is %q after its folder moved", v)
	}
	write(t, w.path("z/y/a.yaml"), config("a", "3"))
	w.waitFor("a", "3", "2")
	must(t, os.RemoveAll(w.path("z")))
	w.waitFor("a", "")
	w.waitFor("b", "")
}

// TestWatchMountedConfigMap swaps files the way that the kubelet does: all are links through one link.
func TestWatchMountedConfigMap(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	put := func(version string) {
		must(t, os.Mkdir(in("..v"+version), 0o755))
		write(t, in("..v"+version+"/a.yaml"), config("a", version))
		must(t, os.Symlink("..v"+version, in("..data_tmp")))
		must(t, os.Rename(in("..data_tmp"), in("..data")))
	}
	put("1")
	must(t, os.Symlink("..data/a.yaml", in("a.yaml")))
	w := watchFolder(t, dir).ready()
	w.waitFor("a", "1")
	put("2")
	must(t, os.RemoveAll(in("..v1")))
	w.waitFor("a", "2", "1")
	put("3")
	w.waitFor("a", "3", "2")
}

func TestWatchLinkToElsewhere(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	target := filepath.Join(elsewhere, "real")
	write(t, target, config("a", "1"))
	w := watchFolder(t, dir).ready()
	must(t, os.Symlink(target, w.path("a.yaml")))
	w.waitFor("a", "1")
	write(t, target, config("a", "2"))
	w.waitFor("a", "2", "1")
}

// TestFolderVanishes keeps what was there, and takes what is there when the folder is back.
func TestFolderVanishes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	must(t, os.Mkdir(dir, 0o755))
	write(t, filepath.Join(dir, "a.yaml"), config("a", "1"))
	write(t, filepath.Join(dir, "b.yaml"), config("b", "1"))
	w := watchFolder(t, dir).ready()
	w.waitFor("a", "1")
	must(t, os.Rename(dir, dir+"-away"))
	end := time.After(patience)
	for len(w.objs.AllProblems(w.objs.DB.Snapshot())) == 0 {
		select {
		case <-end:
			t.Fatal("no problem was reported")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if a, b := w.version("a"), w.version("b"); a != "1" || b != "1" {
		t.Errorf("without the folder a is %q and b %q", a, b)
	}
	must(t, os.Mkdir(dir, 0o755))
	write(t, filepath.Join(dir, "a.yaml"), config("a", "2"))
	w.waitFor("a", "2", "1")
	w.waitFor("b", "")
	if p := w.objs.AllProblems(w.objs.DB.Snapshot()); len(p) > 0 {
		t.Errorf("problems left: %v", p)
	}
	write(t, filepath.Join(dir, "a.yaml"), config("a", "3"))
	w.waitFor("a", "3", "2")
}

// TestFolderIsALink swaps the folder as a whole.
func TestFolderIsALink(t *testing.T) {
	base := t.TempDir()
	for _, v := range []string{"1", "2"} {
		must(t, os.Mkdir(filepath.Join(base, v), 0o755))
		write(t, filepath.Join(base, v, "a.yaml"), config("a", v))
	}
	dir := filepath.Join(base, "now")
	must(t, os.Symlink("1", dir))
	w := watchFolder(t, dir).ready()
	w.waitFor("a", "1")
	must(t, os.Symlink("2", dir+"-next"))
	must(t, os.Rename(dir+"-next", dir))
	w.waitFor("a", "2", "1")
	write(t, filepath.Join(base, "2", "a.yaml"), config("a", "3"))
	w.waitFor("a", "3", "2")
}

// TestWithoutInotify looks through the folder instead.
func TestWithoutInotify(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), config("a", "1"))
	f, objs := newTestFolder(dir)
	w := newWatch(quiet)
	defer w.close()
	w.fail("test", os.ErrPermission)
	if w.broken(); newRunner(f, w).interval() != rescanUnwatched {
		t.Error("a broken watch is trusted")
	}
	r := newRunner(f, w)
	r.rescan()
	write(t, filepath.Join(dir, "a.yaml"), config("a", "22"))
	// Its writer may not be done: it is put off.
	r.rescan()
	if r.retry.IsZero() {
		t.Fatal("a file that was just written is not looked at again")
	}
	must(t, os.Chtimes(filepath.Join(dir, "a.yaml"), time.Time{}, time.Now().Add(-time.Minute)))
	r.due(r.retry)
	c, _ := objs.ConfigMaps.Get(objs.DB.Snapshot(), "default/a")
	if c.Labels["v"] != "22" {
		t.Errorf("a is %q", c.Labels["v"])
	}
	must(t, os.Remove(filepath.Join(dir, "a.yaml")))
	r.rescan()
	if _, ok := objs.ConfigMaps.Get(objs.DB.Snapshot(), "default/a"); !ok || r.leave.IsZero() {
		t.Error("the object did not get its grace time")
	}
	r.due(r.leave)
	if _, ok := objs.ConfigMaps.Get(objs.DB.Snapshot(), "default/a"); ok {
		t.Error("the object is still there")
	}

}
