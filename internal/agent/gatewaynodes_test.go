package agent

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weft-mesh/weft/internal/kube"
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
	node := func(name string, with map[string]string) {
		w := a.st.Write(a.objs.Nodes)
		a.objs.Nodes.Put(w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: with}})
		w.Commit()
	}
	node("edge", map[string]string{"node-restriction.kubernetes.io/edge": "yes"})
	node("inner", map[string]string{"edge": "yes"})
	check := func(when string, want map[string]bool) {
		t.Helper()
		for name, may := range want {
			if got := a.mayServeGateways(name); got != may {
				t.Errorf("%s, node %s: %t, want %t", when, name, got, may)
			}
		}
	}
	check("before all was read", map[string]bool{"edge": true, "inner": true, "unknown": true})
	a.st.MarkSynced()
	check("with a selector", map[string]bool{"edge": true, "inner": false, "unknown": false})
	node("edge", nil)
	check("without its label", map[string]bool{"edge": false})
	a.cfg.GatewayNodes = nil
	check("without a selector", map[string]bool{"edge": true, "inner": true, "unknown": true})
}
