package manifests

import (
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var update = flag.Bool("update", false, "write the golden files")

var quiet = slog.New(slog.DiscardHandler)

func newTestFolder(dir string) (*Folder, *kube.Objects) {
	objs := kube.NewObjects(state.NewDB())
	return NewFolder(dir, objs, FolderOptions{Log: quiet}), objs
}

// TestFolders runs testdata/folder/*.txtar. Files are named STEP/PATH; a step writes its files (or deletes those that
// say DELETE), lets the grace time pass, and compares objects and problems with STEP/want.
func TestFolders(t *testing.T) {
	cases, err := filepath.Glob("testdata/folder/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	for _, c := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(c), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(c)
			if err != nil {
				t.Fatal(err)
			}
			out := runSteps(t, ar)
			if *update {
				if err := os.WriteFile(c, txtar.Format(out), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(txtar.Format(ar)), string(txtar.Format(out))); d != "" {
				t.Errorf("-want +got (-update writes it)\n%s", d)
			}
		})
	}
}

// runSteps returns the archive with what came of each step.
func runSteps(t *testing.T, ar *txtar.Archive) *txtar.Archive {
	dir := t.TempDir()
	f, objs := newTestFolder(dir)
	out := &txtar.Archive{Comment: ar.Comment}
	steps := map[string][]txtar.File{}
	for _, file := range ar.Files {
		step, path, _ := strings.Cut(file.Name, "/")
		if path != "want" {
			steps[step] = append(steps[step], txtar.File{Name: path, Data: file.Data})
		}
	}
	for i, step := range slices.Sorted(maps.Keys(steps)) {
		var paths []string
		for _, file := range steps[step] {
			full := filepath.Join(dir, file.Name)
			paths = append(paths, file.Name)
			if strings.TrimSpace(string(file.Data)) == "DELETE" {
				if err := os.Remove(full); err != nil {
					t.Fatal(err)
				}
			} else {
				if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, full, string(file.Data))
			}
			out.Files = append(out.Files, txtar.File{Name: step + "/" + file.Name, Data: file.Data})
		}
		if i == 0 {
			if err := f.Load(); err != nil {
				t.Fatal(err)
			}
		} else {
			f.take(f.readAll(paths))
			f.depart(time.Now().Add(time.Hour))
		}
		out.Files = append(out.Files, txtar.File{Name: step + "/want", Data: []byte(dump(f, objs))})
	}
	return out
}

// dump lists the objects in the tables, with their generation and the label v, and the problems.
func dump(f *Folder, objs *kube.Objects) string {
	var b strings.Builder
	snap := objs.DB.Snapshot()
	list := func(kind string, o metav1.Object) {
		fmt.Fprintf(&b, "%s %s generation %d", kind, strings.TrimPrefix(kube.Key(o), "/"), o.GetGeneration())
		if v := o.GetLabels()["v"]; v != "" {
			b.WriteString(" v " + v)
		}
		b.WriteByte('\n')
	}
	for k, in := range f.installed {
		if o, ok := objs.Get(snap, in.doc.gk, model.Key(in.doc.ref.Namespace, in.doc.ref.Name)); !ok || o.GetUID() == "" {
			fmt.Fprintf(&b, "%s is not in its table as it should be\n", k)
		}
	}
	each(objs, list)
	if b.Len() == 0 {
		b.WriteString("no objects\n")
	}
	for _, p := range objs.AllProblems(snap) {
		fmt.Fprintf(&b, "! %s\n", p)
	}
	return b.String()
}

// each calls f for all objects of all tables, sorted.
func each(objs *kube.Objects, f func(kind string, o metav1.Object)) {
	snap := objs.DB.Snapshot()
	visit(objs.Namespaces, snap, "Namespace", f)
	visit(objs.ServiceAccounts, snap, "ServiceAccount", f)
	visit(objs.Pods, snap, "Pod", f)
	visit(objs.Services, snap, "Service", f)
	visit(objs.EndpointSlices, snap, "EndpointSlice", f)
	visit(objs.Secrets, snap, "Secret", f)
	visit(objs.ConfigMaps, snap, "ConfigMap", f)
	visit(objs.Gateways, snap, "Gateway", f)
	visit(objs.GatewayClasses, snap, "GatewayClass", f)
	visit(objs.HTTPRoutes, snap, "HTTPRoute", f)
	visit(objs.GRPCRoutes, snap, "GRPCRoute", f)
	visit(objs.ReferenceGrants, snap, "ReferenceGrant", f)
	visit(objs.AuthorizationPolicies, snap, "AuthorizationPolicy", f)
	visit(objs.AddressPools, snap, "AddressPool", f)
}

func visit[T metav1.Object](t *state.Table[T], snap *state.Snapshot, kind string, f func(string, metav1.Object)) {
	for o := range t.All(snap) {
		f(kind, o)
	}
}

func TestLoadNeedsAFolder(t *testing.T) {
	dir := t.TempDir()
	f, _ := newTestFolder(filepath.Join(dir, "none"))
	if err := f.Load(); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a missing folder: %v", err)
	}
	write(t, filepath.Join(dir, "file"), "")
	f, _ = newTestFolder(filepath.Join(dir, "file"))
	if err := f.Load(); err == nil || !strings.Contains(err.Error(), "is not a folder") {
		t.Errorf("a file: %v", err)
	}
	select {
	case <-f.Loaded():
		t.Error("loaded without a folder")
	default:
	}
}

// TestUIDsLast checks that objects keep their UID over a restart, and that no two share one.
func TestUIDsLast(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), "{apiVersion: v1, kind: Pod, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Service, metadata: {name: a}}\n")
	uids := func() (out []string) {
		f, objs := newTestFolder(dir)
		if err := f.Load(); err != nil {
			t.Fatal(err)
		}
		each(objs, func(_ string, o metav1.Object) { out = append(out, string(o.GetUID())) })
		return out
	}
	first, second := uids(), uids()
	if len(first) != 2 || first[0] == first[1] || !slices.Equal(first, second) {
		t.Errorf("%v, then %v", first, second)
	}
}

func TestProblemsAreRows(t *testing.T) {
	dir, objs := t.TempDir(), kube.NewObjects(state.NewDB())
	f := NewFolder(dir, objs, FolderOptions{Log: quiet})
	feed := objs.DB.Feed()
	defer feed.Close()
	for _, step := range []struct {
		text     string
		changed  bool
		problems int
	}{
		{"{apiVersion: v1, kind: Pod, metadata: {name: a}}", false, 0},
		{"kind: [", true, 1},
		{"kind: [", false, 1},
		{"# nothing", true, 0},
		{"{apiVersion: v1, kind: Service, metadata: {name: " + strings.Repeat("a", 1<<20) + "}}", true, 1},
		{"# nothing", true, 0},
	} {
		feed.Take()
		write(t, filepath.Join(dir, "a.yaml"), step.text)
		f.take(f.readAll([]string{"a.yaml"}))
		keys, snap := feed.Take()
		if _, changed := keys[objs.Problems.AnyKey()]; changed != step.changed {
			t.Errorf("%.99s: the table changed: %v, want %v", step.text, changed, step.changed)
		}
		if got := objs.AllProblems(snap); len(got) != step.problems {
			t.Errorf("%.99s: problems %.999v, want %d", step.text, got, step.problems)
		}
	}
}
