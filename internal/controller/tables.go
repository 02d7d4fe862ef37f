package controller

import (
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// tables tells the CA who runs where, from what was read.
type tables struct {
	objs *kube.Objects
	st   *state.State
}

func (t tables) Runs(node, namespace, serviceAccount string) bool {
	return t.objs.RunsAs(t.st.Snapshot(), node, namespace, serviceAccount)
}

func (t tables) Gateway(namespace, name string) bool {
	_, ok := t.st.Gateways.Get(t.st.Snapshot(), model.Key(namespace, name))
	return ok
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
