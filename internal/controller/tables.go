package controller

import (
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// tables tells the CA who runs where, from what was read.
type tables struct {
	objs     *kube.Objects
	st       *state.State
	gateways labels.Selector // of the nodes that may serve Gateways; nil for all
}

// ParseNodes reads a selector of nodes by their labels; "" selects all and is nil.
func ParseNodes(selector string) (labels.Selector, error) {
	if selector == "" {
		return nil, nil
	}
	return labels.Parse(selector)
}

// gatewayNodes returns the nodes that may serve Gateways; nil for all.
func (t tables) gatewayNodes(s *state.Snapshot) map[string]bool {
	if t.gateways == nil {
		return nil
	}
	out := map[string]bool{}
	for n := range t.objs.Nodes.All(s) {
		if t.gateways.Matches(labels.Set(n.Labels)) {
			out[n.Name] = true
		}
	}
	return out
}

// servesGateways reports whether a node may serve Gateways.
func (t tables) servesGateways(s *state.Snapshot, node string) bool {
	if t.gateways == nil {
		return true
	}
	n, ok := t.objs.Nodes.Get(s, model.Key("", node))
	return ok && t.gateways.Matches(labels.Set(n.Labels))
}

func (t tables) Runs(node, namespace, serviceAccount string) bool {
	return t.objs.RunsAs(t.st.Snapshot(), node, namespace, serviceAccount)
}

func (t tables) Gateway(node, namespace, name string) bool {
	s := t.st.Snapshot()
	_, ok := t.st.Gateways.Get(s, model.Key(namespace, name))
	return ok && t.servesGateways(s, node)
}

func (t tables) NodeOf(namespace, name, uid string) string {
	p, ok := t.objs.Pods.Get(t.st.Snapshot(), model.Key(namespace, name))
	if !ok || uid == "" || string(p.UID) != uid {
		return ""
	}
	return p.Spec.NodeName
}

func (t tables) NamespaceUID(name string) string {
	ns, ok := t.objs.Namespaces.Get(t.st.Snapshot(), model.Key("", name))
	if !ok {
		return ""
	}
	return string(ns.UID)
}

// agentNodes returns the names of the nodes with a pod of the agent that has not ended.
func (t tables) agentNodes() []string {
	return t.objs.ComponentNodes(t.st.Snapshot(), "agent")
}

// namespaces returns the names of all namespaces.
func (t tables) namespaces() []string {
	var out []string
	for ns := range t.objs.Namespaces.All(t.st.Snapshot()) {
		out = append(out, ns.Name)
	}
	return out
}
