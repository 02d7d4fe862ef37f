package cluster

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTrimKeepsWhoMadeAPod: traffic is counted by it.
func TestTrimKeepsWhoMadeAPod(t *testing.T) {
	yes := true
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "web-1", ManagedFields: []metav1.ManagedFieldsEntry{{}}, ResourceVersion: "7",
		OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "ConfigMap", Name: "c", UID: "1"},
			{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-6b9f", UID: "2", Controller: &yes},
		},
	}}
	new(Cluster).trim(pod)
	want := []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-6b9f", Controller: &yes}}
	if !reflect.DeepEqual(pod.OwnerReferences, want) || pod.ManagedFields != nil || pod.ResourceVersion != "" {
		t.Errorf("%+v", pod.ObjectMeta)
	}
}
