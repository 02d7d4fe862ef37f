//go:build cluster

package controller

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/gatewaysecrets"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
	"github.com/weft-mesh/weft/mtls"
)

const (
	httpListener = `,
  {name: http, port: 80, protocol: HTTP}]}}`
	httpsListeners = `{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: public, namespace: edge}, spec: {gatewayClassName: weft, listeners: [
  {name: own, port: 443, protocol: HTTPS, hostname: own.example, tls: {certificateRefs: [{name: own}]}},
  {name: shared, port: 443, protocol: HTTPS, hostname: shared.example, tls: {certificateRefs: [{name: shared, namespace: vault}]}}`
	secretGrant = `{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: to-edge, namespace: vault},
  spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: edge}], to: [{group: "", kind: Secret, name: shared}]}}`
)

func tlsSecret(namespace, name, chain string) string {
	b64 := base64.StdEncoding.EncodeToString
	return `{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {name: ` + name + `, namespace: ` + namespace + `},
  data: {tls.crt: ` + b64([]byte(chain)) + `, tls.key: ` + b64([]byte("a key")) + `}}`
}

// edgeNode is the part of an agent that receives Secrets.
type edgeNode struct {
	objs *kube.Objects
	st   *state.State
}

func (w *caWorld) receive(r *mtls.Remote) *edgeNode {
	db := state.NewDB()
	n := &edgeNode{kube.NewObjects(db), state.New(db)}
	receiver := gatewaysecrets.NewReceiver(gatewaysecrets.ReceiverConfig{
		Objects: n.objs, State: n.st, Log: slog.New(slog.NewTextHandler(w.Output(), nil)),
		Open: func(ctx context.Context) (io.ReadCloser, error) { return r.Stream(ctx, gatewaysecrets.Path) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- receiver.Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
	return n
}

// holds returns the chains of the Secrets by key.
func (n *edgeNode) holds() map[string]string {
	out := map[string]string{}
	for s := range n.objs.Secrets.All(n.st.Snapshot()) {
		out[kube.Key(s)] = string(s.Data["tls.crt"])
	}
	return out
}

func (n *edgeNode) refused() bool { return !n.st.ServesGateways(n.st.Snapshot()) }

// TestSecretsOfGateways proves with a real API server, the roles that are shipped and real tokens that agents read no
// Secret, and have from the controller what their Gateways use.
func TestSecretsOfGateways(t *testing.T) {
	w := &caWorld{world: newWorld(t)}
	w.client = kubernetes.NewForConfigOrDie(w.cfg)
	w.install(crdsOfTheGatewayAPI(t, "gatewayclasses", "gateways", "referencegrants")...)
	w.install("../../install/crds/weft.io_addresspools.yaml")
	for _, ns := range []string{"edge", "vault"} {
		w.create(`{apiVersion: v1, kind: Namespace, metadata: {name: ` + ns + `}}`)
	}
	for i, label := range []string{"yes", "no"} {
		w.create(fmt.Sprintf(`{apiVersion: v1, kind: Node, metadata: {name: n%d, labels: {edge: %q}}}`, i+1, label))
	}
	w.account(namespace, "weft-agent")
	w.pod(namespace, "agent-1", "weft-agent", "n1")
	w.pod(namespace, "agent-2", "weft-agent", "n2")
	w.create(pool)
	w.create(tlsSecret("edge", "own", "first"))
	w.create(tlsSecret("edge", "unused", "unused"))
	w.create(tlsSecret("vault", "shared", "shared"))
	w.create(tlsSecret(namespace, "ours", "ours"))

	w.addrs = append(w.addrs, freeAddress(t), freeAddress(t))
	selector, err := ParseNodes("edge=yes")
	if err != nil {
		t.Fatal(err)
	}
	start := func(i int) (*Controller, func()) {
		return w.start(fmt.Sprint("replica-", i), func(c *Config) { c.CAAddress, c.GatewayNodes = w.addrs[i].String(), selector })
	}
	first, stopFirst := start(0)
	w.until("the controller is ready", func() bool { return closed(first.Ready()) })
	// The Secrets hold no certificates, so it is the HTTP listener that makes it a Gateway that is served.
	w.create(httpsListeners + httpListener)

	t.Run("an agent reads no Secrets", func(t *testing.T) {
		agent := kubernetes.NewForConfigOrDie(w.as("agent"))
		for _, ns := range []string{"", "edge", namespace} {
			if _, err := agent.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
				t.Errorf("an agent lists the Secrets of namespace %q: %v", ns, err)
			}
			if watch, err := agent.CoreV1().Secrets(ns).Watch(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
				if err == nil {
					watch.Stop()
				}
				t.Errorf("an agent watches the Secrets of namespace %q: %v", ns, err)
			}
		}
		if _, err := agent.CoreV1().Secrets("edge").Get(t.Context(), "own", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("an agent reads a Secret: %v", err)
		}
	})

	remotes := [2]*mtls.Remote{
		w.agent(w.token(namespace, "weft-agent", "agent-1", mtls.Audience), w.addrs...),
		w.agent(w.token(namespace, "weft-agent", "agent-2", mtls.Audience), w.addrs...),
	}
	edge, inner := w.receive(remotes[0]), w.receive(remotes[1])
	has := func(n *edgeNode, want map[string]string) {
		t.Helper()
		w.until(fmt.Sprint("the node has ", want), func() bool { return maps.Equal(n.holds(), want) })
	}
	has(edge, map[string]string{"edge/own": "first"})
	w.until("the other node is refused", inner.refused)
	if got := inner.holds(); len(got) > 0 {
		t.Errorf("a node that serves no Gateways has %v", got)
	}
	identity := model.NewIdentity("cluster.local", "edge", "public")
	w.until("n1 gets the Gateway's identity", func() bool { return remotes[0].Sign(t.Context(), []model.Identity{identity})[0].Err == nil })
	if got := remotes[1].Sign(t.Context(), []model.Identity{identity})[0]; got.Err == nil {
		t.Error("a node that serves no Gateways gets the identity of one")
	}

	w.patch(w.object(tlsSecret("edge", "own", "")), `{"data": {"tls.crt": "`+base64.StdEncoding.EncodeToString([]byte("second"))+`"}}`)
	has(edge, map[string]string{"edge/own": "second"})
	grant := w.create(secretGrant)
	has(edge, map[string]string{"edge/own": "second", "vault/shared": "shared"})

	second, _ := start(1)
	w.until("the second controller is ready", func() bool { return closed(second.Ready()) })
	stopFirst()
	if err := w.resource(grant).Delete(t.Context(), grant.GetName(), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	has(edge, map[string]string{"edge/own": "second"}) // by the other controller

	for name, label := range map[string]string{"n1": "no", "n2": "yes"} {
		w.patch(w.object(`{apiVersion: v1, kind: Node, metadata: {name: `+name+`}}`), `{"metadata": {"labels": {"edge": "`+label+`"}}}`)
	}
	has(edge, map[string]string{})
	w.until("the node knows that it serves no Gateways any more", edge.refused)
	has(inner, map[string]string{"edge/own": "second"})
}
