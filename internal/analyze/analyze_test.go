package analyze

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/xds"
)

var update = flag.Bool("update", false, "write testdata/*.findings")

// TestFindings: testdata/<case>.yaml has the findings of testdata/<case>.findings.
func TestFindings(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			var out strings.Builder
			for _, f := range read(t, file).Findings() {
				fmt.Fprintf(&out, "%s:%d %s %s %s [%s] %s\n", f.File, f.Line, f.Severity, f.Code, f.Object, f.For, f.Message)
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".findings"
			if *update {
				if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", &out, want)
			}
		})
	}
}

// TestExamples: what users are told to write has no fault but the certificate, which they make.
func TestExamples(t *testing.T) {
	for _, dir := range []string{"canary", "gateway", "mtls", "l4"} {
		for _, f := range read(t, filepath.Join("../../examples", dir)).Findings() {
			if f.For != "listener https" {
				t.Errorf("%s: %+v", dir, f)
			}
		}
	}
}

// TestKernel: a Service leads to its pods, with the routes' mark on the ports that have one.
func TestKernel(t *testing.T) {
	text, err := read(t, "testdata/pods.yaml").Kernel()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	want := []string{
		"frontend 10.96.0.1:5432 TCP -> 10.0.0.1:5432 10.0.0.2:5432", "frontend 10.96.0.1:80 TCP l7 -> 10.0.0.1:8080 10.0.0.2:8080",
		"peer 10.0.0.1 identity strict", "peer 10.0.0.2 identity strict",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", text)
	}
}

// TestEnvoy: the resources are those that the route tables and Gateways need, and each route's clusters are among them.
func TestEnvoy(t *testing.T) {
	list, err := read(t, "testdata/gateway.yaml", "testdata/canary.yaml").Envoy()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list {
		got = append(got, r.Type[strings.LastIndexByte(r.Type, '.')+1:]+" "+r.Name)
	}
	for _, want := range []string{
		"Listener gateway/shop/edge/80", "RouteConfiguration gateway/shop/edge/80", "RouteConfiguration service/shop/web/80",
		"Cluster service/shop/web/80", "ClusterLoadAssignment service/shop/web/80", "Cluster service/shop/web-v2/80",
		"Cluster service/shop/web/80|http1",
		"Listener gateway-udp/shop/edge/53", "Cluster gateway-udp/shop/edge/53", "ClusterLoadAssignment gateway-udp/shop/edge/53",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing in %q", want, got)
		}
	}
	for _, r := range list {
		if r.Type == xds.TypeRoute {
			for _, c := range clustersOf(r.Resource) {
				if !slices.Contains(got, "Cluster "+c) {
					t.Errorf("%s names cluster %s, which is missing", r.Name, c)
				}
			}
		}
	}
}

// TestEnvoyTelemetry: the cluster of a policy's collector is among the resources.
func TestEnvoyTelemetry(t *testing.T) {
	list, err := read(t, "testdata/telemetry.yaml").Envoy()
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{xds.TypeCluster, xds.TypeEndpoint} {
		if !slices.ContainsFunc(list, func(r Resource) bool { return r.Type == url && r.Name == "export|shop/edge" }) {
			t.Errorf("there is no %s of the collector", url)
		}
	}
}

// TestRead: a file may have any name, standard input is read as one, and what cannot be opened is an error.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile("testdata/canary.yaml")
	if err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(dir, "manifest.txt")
	if err := os.WriteFile(odd, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, in := range map[string]io.Reader{odd: nil, "-": strings.NewReader(string(text))} {
		m, err := Read([]string{path}, in)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if n := len(m.RouteTables()); n != 1 {
			t.Errorf("%s: %d route tables", path, n)
		}
		ref := model.ObjectRef{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute", Namespace: "shop", Name: "web"}
		if at := m.files.Where[ref]; at.Line != 16 {
			t.Errorf("%s: the route is in line %d", path, at.Line)
		}
	}
	other := filepath.Join(dir, "other.yaml") // replaces the route by one that has a fault
	if err := os.WriteFile(other, []byte(strings.ReplaceAll(string(text), "name: web-v2, port", "name: web-v3, port")), 0o600); err != nil {
		t.Fatal(err)
	}
	if list := read(t, odd, other).Findings(); len(list) != 1 || list[0].File != other || list[0].Line != 16 {
		t.Errorf("the second file counts, and has one fault: %+v", list)
	}
	if _, err := Read([]string{filepath.Join(dir, "none.yaml")}, nil); err == nil {
		t.Error("a file that is not there is no error")
	}
}

// TestReadNothing: what has no manifest is named in an error, for else a wrong path would look like no problem.
func TestReadNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("kind: Service"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(empty, []byte("# nothing yet\n---\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:   dir + " has no manifest: files that end in .yaml, .yml or .json are read",
		empty: empty + " has no manifest: it is empty",
		"-":   "stdin has no manifest: it is empty",
	} {
		if _, err := Read([]string{"testdata/canary.yaml", path}, strings.NewReader("")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestReferenced: what objects refer to is asked for once, when all of them are read, and not what a file has.
func TestReferenced(t *testing.T) {
	listener := func(port int, secret string) string {
		return fmt.Sprintf(`{name: l%d, protocol: HTTPS, port: %d, tls: {certificateRefs: [{name: %s}]}}`, port, port, secret)
	}
	gateway := "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: edge}\nspec: {gatewayClassName: weft, listeners: [" +
		listener(443, "there") + ", " + listener(444, "written") + ", " + listener(445, "gone") + "]}\n"
	secret := func(name string) string {
		text, err := StandIns([]string{"edge/" + name})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	asked := 0
	m, err := ReadBeside(Cluster{
		Documents: [][]byte{[]byte(`{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "weft"}, "spec": {"controllerName": "weft.io/gateway-controller"}}`)},
		Referenced: func(configMaps, secrets []string) ([][]byte, error) {
			asked++
			if len(configMaps) != 0 || !slices.Equal(secrets, []string{"edge/gone", "edge/there"}) {
				t.Errorf("asked for %q, %q", configMaps, secrets)
			}
			return [][]byte{[]byte(secret("there"))}, nil
		},
	}, []string{"-"}, strings.NewReader(gateway+"---\n"+secret("written")+"\n"))
	if err != nil || asked != 1 {
		t.Fatalf("asked %d times: %v", asked, err)
	}
	for _, f := range m.Findings() {
		if f.For != "listener l445" || f.File != "stdin" {
			t.Errorf("%+v", f)
		}
	}
	if len(m.Findings()) == 0 {
		t.Error("nothing is said of the Secret that is nowhere")
	}
}

// TestFindingsNameTheFile: findings have the name by which the user knows the file, whatever it ends in.
func TestFindingsNameTheFile(t *testing.T) {
	odd := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(odd, []byte("kind: Service"), 0o600); err != nil {
		t.Fatal(err)
	}
	if list := read(t, odd).Findings(); len(list) != 1 || list[0].File != odd {
		t.Errorf("%+v", list)
	}
}

// TestTakesAll: which rule hides a later one.
func TestTakesAll(t *testing.T) {
	path := func(kind model.MatchType, v string) model.Match {
		return model.Match{Path: model.PathMatch{Type: kind, Value: v}}
	}
	get := path(model.MatchPrefix, "/a")
	get.Method = "GET"
	header := path(model.MatchPrefix, "/a")
	header.Headers = []model.ValueMatch{{Name: "x", Type: model.MatchExact, Value: "1"}}
	for _, c := range []struct {
		earlier, later model.Match
		want           bool
	}{
		{path(model.MatchPrefix, "/a"), path(model.MatchPrefix, "/a/b"), true},
		{path(model.MatchPrefix, "/a"), path(model.MatchPrefix, "/ab"), false},
		{path(model.MatchPrefix, "/"), path(model.MatchRegex, "/x.*"), true},
		{path(model.MatchPrefix, "/a"), path(model.MatchRegex, "/a.*"), false},
		{path(model.MatchExact, "/a"), path(model.MatchPrefix, "/a"), false},
		{path(model.MatchPrefix, "/a"), path(model.MatchExact, "/a"), true},
		{path(model.MatchPrefix, "/a"), model.Match{}, false},
		{model.Match{}, get, true},
		{get, path(model.MatchPrefix, "/a"), false},
		{path(model.MatchPrefix, "/a"), header, true},
		{header, path(model.MatchPrefix, "/a"), false},
		{header, get, false},
	} {
		if got := takesAll(model.Rule{Match: c.earlier}, model.Rule{Match: c.later}); got != c.want {
			t.Errorf("%+v, then %+v: %v", c.earlier, c.later, got)
		}
	}
	if takesAll(model.Rule{CallerNamespace: "a"}, model.Rule{}) || !takesAll(model.Rule{}, model.Rule{CallerNamespace: "a"}) {
		t.Error("callers' namespaces are not told apart")
	}
}

func read(t *testing.T, paths ...string) *Mesh {
	t.Helper()
	m, err := Read(paths, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
