package gateway

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

var nodeUnits = unitKind{
	name: "Node", stage: stageModel, compute: nodeAddresses,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*corev1.Node] { return o.Nodes }),
}

// nodeAddresses are those in a Node's status.
func nodeAddresses(v *view, key string) ([]output, bool) {
	n, ok := v.objs.Nodes.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	row := &model.NodeAddresses{Source: "Node", Node: n.Name}
	for _, a := range kube.NodeAddresses(n) {
		if model.IsRoutable(a) && len(row.Addresses) < model.MaxNodeAddresses {
			row.Addresses = append(row.Addresses, a)
		}
	}
	if len(row.Addresses) == 0 {
		return nil, true
	}
	return []output{out(v.st.NodeAddresses, row.Key(), row)}, true
}
