package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/weft-mesh/weft/datapath"
	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/placement"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/internal/testenv"
	"github.com/weft-mesh/weft/xds"
)

var update = flag.Bool("update", false, "rewrite the golden parts of testdata/*.txtar")

// TestScripts takes manifests through a whole node: YAML in, map entries and Envoy resources out, with maps in memory.
// TestScriptsKernel does the same with the kernel's maps. The scripts' commands:
//
//	node                    waits until the folder manifests, which is watched, has been taken in
//	entries                 prints what the maps hold
//	resource TYPE NAME      prints an Envoy resource: listener, cluster, endpoints, route, scope, secret, filter
//	status KIND/NS/NAME     prints an object's status
//	problems                prints what the folder complains about
//	long FROM TO            copies a file, with a mebibyte of text in place of @MiB@
func TestScripts(t *testing.T) { scripts(t, false) }

func TestScriptsKernel(t *testing.T) {
	testenv.Root(t)
	scripts(t, true)
}

func scripts(t *testing.T, kernel bool) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update && !kernel,
		Setup: func(e *testscript.Env) error {
			n, err := newScriptNode(filepath.Join(e.WorkDir, "manifests"), kernel)
			if err != nil {
				return err
			}
			e.Defer(n.close)
			e.Values["node"] = n
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"node": func(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(nodeOf(ts).sync()) },
			"entries": func(ts *testscript.TestScript, _ bool, _ []string) {
				text, err := nodeOf(ts).path.Entries()
				ts.Check(err)
				print1(ts, text)
			},
			"resource": func(ts *testscript.TestScript, neg bool, args []string) {
				if len(args) != 2 {
					ts.Fatalf("usage: resource TYPE NAME")
				}
				m, ok := nodeOf(ts).xds.Build(types[args[0]], args[1])
				if ok == neg {
					ts.Fatalf("%s %s: there is one: %v", args[0], args[1], ok)
				}
				if !ok {
					return
				}
				j, err := protojson.Marshal(m)
				ts.Check(err)
				print1(ts, toYAML(ts, j))
			},
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				n := nodeOf(ts)
				s, ok := n.st.Statuses.Get(n.st.Snapshot(), args[0])
				if ok == neg {
					ts.Fatalf("status of %s: there is one: %v", args[0], ok)
				}
				if ok {
					j, err := json.Marshal(s)
					ts.Check(err)
					print1(ts, toYAML(ts, j))
				}
			},
			"long": func(ts *testscript.TestScript, _ bool, args []string) {
				if len(args) != 2 {
					ts.Fatalf("usage: long FROM TO")
				}
				text := strings.ReplaceAll(ts.ReadFile(args[0]), "@MiB@", strings.Repeat("a", 1<<20))
				ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
			},
			"problems": func(ts *testscript.TestScript, _ bool, _ []string) {
				var b strings.Builder
				for _, p := range nodeOf(ts).objs.AllProblems(nodeOf(ts).st.Snapshot()) {
					b.WriteString(p.String() + "\n")
				}
				print1(ts, b.String())
			},
		},
	})
}

var types = map[string]string{
	"listener": xds.TypeListener, "cluster": xds.TypeCluster, "endpoints": xds.TypeEndpoint, "route": xds.TypeRoute,
	"scope": xds.TypeScope, "secret": xds.TypeSecret, "filter": xds.TypeFilter,
}

type scriptNode struct {
	st      *state.State
	objs    *kube.Objects
	stop    func()
	folder  *manifests.Folder
	placed  *placement.Manifests
	gateway *gateway.Translator
	xds     *xds.Server
	path    *datapath.Offline
}

func newScriptNode(dir string, kernel bool) (*scriptNode, error) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	db := state.NewDB()
	objs := kube.NewObjects(db)
	st := state.New(db)
	path, err := datapath.NewOffline(st, kernel, log)
	if err != nil {
		return nil, err
	}
	return &scriptNode{
		st: st, objs: objs, path: path,
		folder:  manifests.NewFolder(dir, objs, manifests.FolderOptions{Log: log}),
		placed:  placement.NewManifests(placement.ManifestsConfig{Objects: objs, State: st, Log: log}),
		gateway: gateway.New(objs, st, gateway.Config{TrustDomain: "cluster.local", Node: "node", NodeAddresses: testenv.Addrs("192.168.0.10")}, log),
		xds:     xds.New(st, xds.Config{Node: "node", TrustDomain: "cluster.local"}),
	}, nil
}

// sync waits until the folder is taken in as it is, and takes it through the node.
func (n *scriptNode) sync() error {
	if n.stop == nil {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- n.folder.Run(ctx) }()
		n.stop = func() { cancel(); <-done }
	}
	for end := time.Now().Add(time.Minute); !n.folder.UpToDate(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("the folder was not taken in")
		}
	}
	n.placed.Sync()
	n.gateway.Sync()
	return n.path.Sync()
}

func (n *scriptNode) close() {
	if n.stop != nil {
		n.stop()
	}
	_ = n.path.Close()
}

func nodeOf(ts *testscript.TestScript) *scriptNode { return ts.Value("node").(*scriptNode) }

// print1 makes text the standard output of the command, for cmp and stdout.
func print1(ts *testscript.TestScript, text string) { _, _ = io.WriteString(ts.Stdout(), text) }

// toYAML keeps goldens readable: protojson's spacing is random on purpose.
func toYAML(ts *testscript.TestScript, j []byte) string {
	y, err := yaml.JSONToYAML(j)
	ts.Check(err)
	return string(y)
}
