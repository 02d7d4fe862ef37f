//go:build cluster

package controller

import (
	"log/slog"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/cluster"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// TestRefusalsOnAPIServer: with the controller's own rights an Event is made and counted, and the next leader goes on.
func TestRefusalsOnAPIServer(t *testing.T) {
	w := &caWorld{world: newWorld(t)}
	w.client = kubernetes.NewForConfigOrDie(w.cfg)
	w.create(`{apiVersion: v1, kind: Namespace, metadata: {name: store}}`)
	w.account("store", "web")
	w.pod("store", "web", "web", "b")
	pod, err := w.client.CoreV1().Pods("store").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	objs := kube.NewObjects(state.NewDB())
	txn := objs.Write()
	if err := objs.Put(txn, pod); err != nil {
		t.Fatal(err)
	}
	txn.Commit()
	client := cluster.New(w.as("controller"), objs, cluster.Options{})
	count := func() int32 {
		t.Helper()
		events, err := w.client.EventsV1().Events("store").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(events.Items) != 1 {
			t.Fatalf("%d Events, error %v", len(events.Items), err)
		}
		if e := events.Items[0]; e.Regarding.UID != pod.UID || e.Reason != refusedReason {
			t.Errorf("%+v", e)
		}
		if s := events.Items[0].Series; s != nil {
			return s.Count
		}
		return 1
	}
	for i, refused := range []int{1, 2, 40} { // each by another leader
		want := int32([]int{1, 3, 43}[i])
		leader := newRefusalEvents(objs, client, slog.New(slog.NewTextHandler(t.Output(), nil)))
		for range refused {
			leader.observe("b", refusedFlow(observe.AtDestination, 80))
		}
		leader.flush(t.Context())
		if got := count(); got != want {
			t.Errorf("leader %d: the Event counts %d, want %d", i, got, want)
		}
	}
}
