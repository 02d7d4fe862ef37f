//go:build cluster

package controller

import (
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestAgentsLeases is about what an agent writes with the token of its pod, and what viewers may see. It is one test, for a server costs seconds to
// start.
func TestAgentsLeases(t *testing.T) {
	w := &caWorld{world: newWorld(t)}
	w.client = kubernetes.NewForConfigOrDie(w.cfg)
	w.create(`{apiVersion: v1, kind: Node, metadata: {name: n1}}`)
	w.account(namespace, "weft-agent")
	w.pod(namespace, "agent-1", "weft-agent", "n1")
	cfg := w.agentConfig()
	t.Run("own node only", func(t *testing.T) { ownLeases(t, w, cfg) })
	t.Run("viewers", func(t *testing.T) { rightsOfViewers(t, w) })
	t.Run("reports", func(t *testing.T) { reportsReachConditions(t, w, cfg) })
}

// agentConfig is the configuration of the agent of node n1.
func (w *caWorld) agentConfig() *rest.Config {
	w.Helper()
	spec := authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "agent-1"}}
	token, err := w.client.CoreV1().ServiceAccounts(namespace).CreateToken(w.Context(), "weft-agent", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	cfg := rest.AnonymousClientConfig(w.cfg)
	cfg.BearerToken = token.Status.Token
	return cfg
}

// An agent writes the Leases of its own node and no other: by them a node says what it takes, which addresses it answers
// for, and what its Envoy refused.
func ownLeases(t *testing.T, w *caWorld, cfg *rest.Config) {
	leases := kubernetes.NewForConfigOrDie(cfg).CoordinationV1().Leases(namespace)
	create := func(name string) error {
		_, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	}
	refused := func(what string, err error) {
		t.Helper()
		if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "its own node") {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.until("the policy is in force", func() bool { return create("weft-agent-n2") != nil || w.drop(t, "weft-agent-n2") })
	refused("another node's Lease", create("weft-agent-n2"))
	refused("another node's report", create("weft-report-n2"))
	refused("a Lease of another name", create("weft-controller"))
	if err := create("weft-agent-n1"); err != nil {
		t.Errorf("its own node's Lease: %v", err)
	}
	if err := create("weft-report-n1"); err != nil {
		t.Errorf("its own node's report: %v", err)
	}
	own, err := leases.Get(t.Context(), "weft-agent-n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own.Annotations = map[string]string{"a": "b"}
	if _, err := leases.Update(t.Context(), own, metav1.UpdateOptions{}); err != nil {
		t.Errorf("its own node's Lease again: %v", err)
	}
	other, err := w.client.CoordinationV1().Leases(namespace).Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "weft-agent-n3"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = leases.Update(t.Context(), other, metav1.UpdateOptions{})
	refused("an update of another node's Lease", err)

	// The leader's: whoever holds it is the controller that writes.
	leader, _ := w.start("leader")
	w.until("a controller leads", func() bool { return closed(leader.leads) })
	w.until("no renewal comes between", func() bool {
		held, getErr := leases.Get(t.Context(), "weft-controller", metav1.GetOptions{})
		if getErr != nil {
			t.Fatal(getErr)
		}
		held.Spec.HolderIdentity = new("agent-1")
		_, err = leases.Update(t.Context(), held, metav1.UpdateOptions{})
		return !apierrors.IsConflict(err)
	})
	refused("the leader's Lease", err)
	if err := leases.Delete(t.Context(), "weft-controller", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the leader's Lease is deleted: %v", err)
	}
}

// drop deletes a Lease that should not have been made. It returns false.
func (w *caWorld) drop(t *testing.T, name string) bool {
	_ = w.client.CoordinationV1().Leases(namespace).Delete(t.Context(), name, metav1.DeleteOptions{})
	return false
}
