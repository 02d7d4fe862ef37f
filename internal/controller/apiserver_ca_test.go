//go:build cluster

package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/mtls"
)

// caWorld is a cluster with two controllers and agents on two nodes.
type caWorld struct {
	*world
	client *kubernetes.Clientset
	addrs  []netip.AddrPort // of the replicas' CAs
}

func freeAddress(t *testing.T) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

func (w *caWorld) pod(namespace, name, account, node string) {
	w.Helper()
	w.create(`{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `, namespace: ` + namespace + `},
  spec: {nodeName: ` + node + `, serviceAccountName: ` + account + `, automountServiceAccountToken: false, containers: [{name: c, image: i}]}}`)
}

func (w *caWorld) account(namespace, name string) {
	w.Helper()
	w.create(`{apiVersion: v1, kind: ServiceAccount, metadata: {name: ` + name + `, namespace: ` + namespace + `}}`)
}

// token returns a real token, bound to a pod unless that is "", in a file.
func (w *caWorld) token(namespace, account, pod, audience string) string {
	w.Helper()
	spec := authenticationv1.TokenRequestSpec{Audiences: []string{audience}}
	if pod != "" {
		spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod}
	}
	got, err := w.client.CoreV1().ServiceAccounts(namespace).CreateToken(w.Context(), account, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	file := filepath.Join(w.TempDir(), "token")
	if err := os.WriteFile(file, []byte(got.Status.Token), 0o600); err != nil {
		w.Fatal(err)
	}
	return file
}

// agent is the way of a node to the CA at these addresses, with the trust bundle that an agent may read.
func (w *caWorld) agent(token string, at ...netip.AddrPort) *mtls.Remote {
	w.Helper()
	r := mtls.NewRemote(mtls.RemoteConfig{
		TrustDomain: "cluster.local", Server: model.NewIdentity("cluster.local", namespace, "weft-controller"), TokenFile: token,
		Replicas: func() []netip.AddrPort { return at }, Log: slog.New(slog.NewTextHandler(w.Output(), nil)),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := cluster.FollowConfigMap(ctx, w.as("agent"), namespace, "weft-trust-bundle", func(data map[string]string) {
			if err := r.SetBundle([]byte(data["ca.crt"])); err != nil {
				w.Error(err)
			}
		})
		if err != nil {
			w.Error(err)
		}
	}()
	w.Cleanup(func() {
		cancel()
		<-done
		r.Close()
	})
	w.until("the agent has the trust bundle", func() bool { return r.Bundle() != nil })
	return r
}

// TestCA proves the CA against a real API server, with real tokens and the roles that are shipped.
func TestCA(t *testing.T) {
	w := &caWorld{world: newWorld(t)}
	w.client = kubernetes.NewForConfigOrDie(w.cfg)
	w.create(`{apiVersion: v1, kind: Namespace, metadata: {name: shop}}`)
	for _, a := range [][2]string{{namespace, "weft-agent"}, {namespace, "weft-proxy"}, {"shop", "web"}, {"shop", "db"}, {"shop", "late"}, {"shop", "weft-agent"}} {
		w.account(a[0], a[1])
	}
	w.pod(namespace, "agent-1", "weft-agent", "n1")
	w.pod(namespace, "proxy-1", "weft-proxy", "n1")
	w.pod("shop", "web", "web", "n1")
	w.pod("shop", "db", "db", "n2")
	w.pod("shop", "posing", "weft-agent", "n1")

	// Both start at once, without a Secret.
	w.addrs = []netip.AddrPort{freeAddress(t), freeAddress(t)}
	first, stopFirst := w.start("first", func(c *Config) { c.CAAddress = w.addrs[0].String() })
	second, _ := w.start("second", func(c *Config) { c.CAAddress = w.addrs[1].String() })
	w.until("both are ready", func() bool { return closed(first.Ready()) && closed(second.Ready()) })

	good := w.token(namespace, "weft-agent", "agent-1", mtls.Audience)
	id := func(ns, sa string) model.Identity { return model.NewIdentity("cluster.local", ns, sa) }
	for i, at := range w.addrs {
		got := w.agent(good, at).Sign(t.Context(), []model.Identity{id("shop", "web"), id("shop", "db"), id(namespace, "weft-controller")})
		if got[0].Err != nil {
			t.Errorf("replica %d: %v", i, got[0].Err)
		}
		if got[1].Err == nil || !strings.Contains(got[1].Err.Error(), "runs on node n1") {
			t.Errorf("replica %d signs for a pod of another node: %v", i, got[1].Err)
		}
		if got[2].Err == nil {
			t.Errorf("replica %d signs for the controller", i)
		}
	}
	for name, token := range map[string]string{
		"another audience":       w.token(namespace, "weft-agent", "agent-1", "https://kubernetes.default.svc"),
		"another ServiceAccount": w.token(namespace, "weft-proxy", "proxy-1", mtls.Audience),
		"another namespace":      w.token("shop", "weft-agent", "posing", mtls.Audience),
		"bound to no pod":        w.token(namespace, "weft-agent", "", mtls.Audience),
	} {
		if got := w.agent(token, w.addrs[0]).Sign(t.Context(), []model.Identity{id("shop", "web")}); got[0].Err == nil {
			t.Errorf("%s: signed", name)
		}
	}

	agent := w.agent(good, w.addrs...)
	t.Run("a pod that comes", func(t *testing.T) {
		w.pod("shop", "late", "late", "n1")
		if got := agent.Sign(t.Context(), []model.Identity{id("shop", "late")}); got[0].Err != nil {
			t.Error(got[0].Err)
		}
	})
	t.Run("a pod that goes", func(t *testing.T) {
		now := int64(0)
		if err := w.client.CoreV1().Pods("shop").Delete(t.Context(), "late", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Fatal(err)
		}
		w.until("its identity is refused", func() bool { return agent.Sign(t.Context(), []model.Identity{id("shop", "late")})[0].Err != nil })
	})
	t.Run("a deleted trust bundle and a deleted Secret come back", func(t *testing.T) {
		before := string(agent.Bundle().PEM)
		if err := w.client.CoreV1().ConfigMaps(namespace).Delete(t.Context(), "weft-trust-bundle", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := w.client.CoreV1().Secrets(namespace).Delete(t.Context(), "weft-ca", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
			m, err := w.client.CoreV1().ConfigMaps(namespace).Get(t.Context(), "weft-trust-bundle", metav1.GetOptions{})
			_, err2 := w.client.CoreV1().Secrets(namespace).Get(t.Context(), "weft-ca", metav1.GetOptions{})
			if err == nil && err2 == nil {
				if m.Data["ca.crt"] != before {
					t.Error("the trust bundle is another")
				}
				break
			}
			if !apierrors.IsNotFound(err) && err != nil || time.Now().After(end) {
				t.Fatalf("%v, %v", err, err2)
			}
		}
	})
	t.Run("ClusterTrustBundle", func(t *testing.T) {
		// Kubernetes 1.37, which the tests run, serves it.
		at := w.dyn.Resource(schema.GroupVersionResource{Group: "certificates.k8s.io", Version: "v1", Resource: "clustertrustbundles"})
		holds := func() string {
			o, err := at.Get(t.Context(), "weft.io:mesh:cluster.local", metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			if owners := o.GetOwnerReferences(); len(owners) != 1 || owners[0].Name != namespace {
				return fmt.Sprintf("owners %v", owners)
			}
			text, _, _ := unstructured.NestedString(o.Object, "spec", "trustBundle")
			return text
		}
		w.until("it is as the ConfigMap", func() bool { return holds() == string(agent.Bundle().PEM) })
		patch := []byte(`{"metadata":{"annotations":{"weft.io/next-root":"2"}}}`)
		if _, err := w.client.CoreV1().Secrets(namespace).Patch(t.Context(), "weft-ca", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		w.until("the agent knows the next root", func() bool { return strings.Count(string(agent.Bundle().PEM), "BEGIN") == 2 })
		w.until("it holds both", func() bool { return holds() == string(agent.Bundle().PEM) })
		if got := agent.Sign(t.Context(), []model.Identity{id("shop", "web")}); got[0].Err != nil {
			t.Error(got[0].Err)
		}
	})
	t.Run("one replica goes", func(t *testing.T) {
		stopFirst()
		for range 3 {
			if got := agent.Sign(t.Context(), []model.Identity{id("shop", "web")}); got[0].Err != nil {
				t.Error(got[0].Err)
			}
		}
		w.until("second leads", func() bool { return closed(second.leads) })
	})
}
