package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/state"
)

// Which nodes may serve Gateways follows from the labels of the Node objects, once all of them were read.
func TestMayServeGateways(t *testing.T) {
	db := state.NewDB()
	selector, err := labels.Parse("node-restriction.kubernetes.io/edge=yes")
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{cfg: Config{GatewayNodes: selector}, st: state.New(db), objs: kube.NewObjects(db)}
	dir := t.TempDir()
	node := func(name, labels string) {
		t.Helper()
		text := fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: %s, labels: {%s}}\n", name, labels)
		folder := manifests.NewFolder(dir, a.objs, manifests.FolderOptions{Log: slog.New(slog.DiscardHandler)})
		if err := errors.Join(os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600), folder.Load()); err != nil {
			t.Fatal(err)
		}
	}
	node("edge", `node-restriction.kubernetes.io/edge: "yes"`)
	node("inner", `edge: "yes"`)
	all := false
	check := func(when string, want map[string]bool) {
		t.Helper()
		for name, may := range want {
			if got, known := a.mayServeGateways(name); got != may || known != all {
				t.Errorf("%s, node %s: %t, known %t; want %t, %t", when, name, got, known, may, all)
			}
		}
	}
	check("before all was read", map[string]bool{"edge": false, "inner": false, "unknown": false})
	a.st.MarkSynced()
	all = true
	check("with a selector", map[string]bool{"edge": true, "inner": false, "unknown": false})
	node("edge", "")
	check("without its label", map[string]bool{"edge": false})
	a.cfg.GatewayNodes = nil
	check("without a selector", map[string]bool{"edge": true, "inner": true, "unknown": true})
}
