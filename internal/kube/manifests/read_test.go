package manifests

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// httpRoute returns an HTTPRoute in JSON.
func httpRoute(name, created string) string {
	return `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"namespace": "shop", "name": "` + name + `"` + created + `}, "spec": {"rules": [{}]}}`
}

// TestCreationTimes: the older object wins where two say different things, so ages of a cluster's objects are kept. A manifest has the
// age of the object that it replaces; a new one is the youngest.
func TestCreationTimes(t *testing.T) {
	const older, later = "2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z"
	list := func(items ...string) []byte {
		return []byte(`{"apiVersion": "v1", "kind": "List", "items": [` + strings.Join(items, ",") + `]}`)
	}
	at := func(s string) string { return `, "creationTimestamp": "` + s + `"` }
	for name, c := range map[string]struct {
		documents [][]byte
		manifests string
		want      map[string]string // the rest is now
	}{
		"a cluster": {
			[][]byte{list(httpRoute("a", at(later)), httpRoute("z", at(older)))}, "",
			map[string]string{"a": later, "z": older},
		},
		"manifests beside": {
			[][]byte{list(httpRoute("a", at(later))), list(httpRoute("z", at(older)))}, httpRoute("z", "") + httpRoute("a", at(older)) + httpRoute("new", at(older)),
			map[string]string{"a": later, "z": older},
		},
		"manifests alone": {nil, httpRoute("z", at(older)), map[string]string{"z": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			objs := kube.NewObjects(state.NewDB())
			var paths []string
			if c.manifests != "" {
				paths = []string{Stdin}
			}
			start := time.Now().Truncate(time.Second)
			files, err := ReadBeside(objs, Cluster{Documents: c.documents}, paths, strings.NewReader(c.manifests))
			if err != nil || len(files.Problems) > 0 {
				t.Fatal(err, files)
			}
			for r := range objs.HTTPRoutes.All(objs.DB.Snapshot()) {
				want, fixed := c.want[r.Name]
				got := r.CreationTimestamp.Time
				switch {
				case !fixed && (got.Before(start) || got.After(time.Now())):
					t.Errorf("%s was made at %s, not now", r.Name, got)
				case fixed && want == "" && !got.IsZero(), fixed && want != "" && got.UTC().Format(time.RFC3339) != want:
					t.Errorf("%s was made at %s, want %q", r.Name, got, want)
				}
			}
		})
	}
}

// TestNewerCluster: the API server of a newer Kubernetes has fields that this program does not know. In a manifest such a field is an
// error: it is misspelt.
func TestNewerCluster(t *testing.T) {
	const pod = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"},
  "spec": {"fieldOfTomorrow": 1, "containers": [{"name": "c"}]}, "status": {"podIP": "10.0.0.1"}}`
	objs := kube.NewObjects(state.NewDB())
	files, err := ReadBeside(objs, Cluster{Documents: [][]byte{[]byte(pod)}}, nil, nil)
	if err != nil || len(files.Problems) > 0 {
		t.Fatal(err, files)
	}
	if p, ok := objs.Pods.Get(objs.DB.Snapshot(), "shop/web"); !ok || p.Status.PodIP != "10.0.0.1" || len(p.Spec.Containers) != 1 {
		t.Errorf("the Pod is %v", p)
	}
	files, err = ReadBeside(kube.NewObjects(state.NewDB()), Cluster{Documents: [][]byte{[]byte(pod)}}, []string{Stdin}, strings.NewReader(pod))
	if err != nil || len(files.Problems) != 1 || !strings.Contains(files.Problems[0].Reason, "fieldOfTomorrow") {
		t.Errorf("a manifest with the field: %v, %+v", err, files)
	}
}

// TestMoreOfTheCluster: what is read last, because objects refer to it, has no place either, and leaves those of the files.
func TestMoreOfTheCluster(t *testing.T) {
	objs, asked := kube.NewObjects(state.NewDB()), 0
	const bad = `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "shop", "name": "bad"}, "data": 7}`
	files, err := ReadBeside(objs, Cluster{
		Documents: [][]byte{[]byte(httpRoute("a", ""))},
		More: func() ([][]byte, error) {
			asked++
			if n := objs.HTTPRoutes.Len(objs.DB.Snapshot()); n != 2 {
				t.Errorf("%d routes are read", n)
			}
			return [][]byte{[]byte(bad)}, nil
		},
	}, []string{Stdin}, strings.NewReader(httpRoute("b", "")+"\n---\nkind: Service\n"))
	if err != nil || asked != 1 {
		t.Fatalf("asked %d times: %v", asked, err)
	}
	for name, want := range map[string]Place{"a": {}, "b": {"stdin", 1}} {
		if at := files.Where[model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: "shop", Name: name}]; at != want {
			t.Errorf("route %s is at %+v, want %+v", name, at, want)
		}
	}
	var places []Place
	for _, p := range files.Problems {
		places = append(places, Place{p.File, p.Line})
	}
	if len(places) < 2 || places[0].File != "stdin" || places[0].Line == 0 || places[len(places)-1] != (Place{}) {
		t.Errorf("problems at %+v: %+v", places, files.Problems)
	}
}

// TestStreamsStayInMemory: what is read from a cluster or from standard input may have private keys.
func TestStreamsStayInMemory(t *testing.T) {
	t.Setenv("TMPDIR", "/nowhere")
	_, err := ReadBeside(kube.NewObjects(state.NewDB()), Cluster{Documents: [][]byte{[]byte(httpRoute("a", ""))}}, []string{Stdin}, strings.NewReader(httpRoute("b", "")))
	if err != nil {
		t.Error(err)
	}
}

// TestLongStream reads no more of a stream than of a file.
func TestLongStream(t *testing.T) {
	tail := &fails{after: 2 * MaxFile}
	files, err := Read(kube.NewObjects(state.NewDB()), []string{Stdin}, tail)
	if err != nil || len(files.Problems) != 1 || files.Problems[0].Reason != "cannot be read: is larger than 16777216 bytes" {
		t.Errorf("%v, %+v", err, files)
	}
}

// fails gives spaces, and an error after some bytes.
type fails struct{ after int }

func (f *fails) Read(p []byte) (int, error) {
	if f.after <= 0 {
		return 0, errors.New("too much was read")
	}
	n := min(len(p), f.after)
	for i := range n {
		p[i] = ' '
	}
	f.after -= n
	return n, nil
}
