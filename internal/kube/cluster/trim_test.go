package cluster

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
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

// TestTrimKeepsWhatTheKubeletCalls: it is let in to strict pods, and nothing else is.
func TestTrimKeepsWhatTheKubeletCalls(t *testing.T) {
	get := func(path string) *corev1.HTTPGetAction {
		return &corev1.HTTPGetAction{Host: "10.0.0.9", Port: intstr.FromInt32(8080), Scheme: corev1.URISchemeHTTPS, Path: path}
	}
	withHeaders := func(path string) *corev1.HTTPGetAction {
		g := get(path)
		g.HTTPHeaders = []corev1.HTTPHeader{{Name: "Authorization", Value: "secret"}}
		return g
	}
	tcp := &corev1.TCPSocketAction{Host: "10.0.0.9", Port: intstr.FromString("http")}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{
		{
			Name: "all", Image: "i",
			LivenessProbe:  &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: withHeaders("/live")}, PeriodSeconds: 3},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: tcp}},
			Lifecycle: &corev1.Lifecycle{
				PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh"}}},
				PreStop:   &corev1.LifecycleHandler{HTTPGet: withHeaders("/drain")},
			},
		},
		{Name: "only-hook", Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{HTTPGet: withHeaders("/started")}}},
		{Name: "nothing", Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 1}}}},
	}}}
	new(Cluster).trim(pod)
	want := []corev1.Container{
		{
			Name: "all", LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: get("/live")}},
			ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: tcp}},
			Lifecycle:      &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: get("/drain")}},
		},
		{Name: "only-hook", Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{HTTPGet: get("/started")}}},
	}
	if d := cmp.Diff(want, pod.Spec.Containers); d != "" {
		t.Error(d)
	}
}
