package gateway

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOwnerOf(t *testing.T) {
	for name, c := range map[string]struct {
		kind, owner string
		labels      map[string]string
		annotations map[string]string
		want        string
	}{
		"nothing owns it":                {"", "", nil, nil, ""},
		"a Deployment":                   {"ReplicaSet", "web-6b9f", map[string]string{"pod-template-hash": "6b9f"}, nil, "Deployment/web"},
		"an Argo Rollout":                {"ReplicaSet", "web-6b9f", map[string]string{"rollouts-pod-template-hash": "6b9f"}, nil, "Rollout/web"},
		"a ReplicaSet that nobody made":  {"ReplicaSet", "web", nil, nil, "ReplicaSet/web"},
		"a hash that is not the name's":  {"ReplicaSet", "web-1", map[string]string{"pod-template-hash": "2"}, nil, "ReplicaSet/web-1"},
		"a name that is the hash alone":  {"ReplicaSet", "-1", map[string]string{"pod-template-hash": "1"}, nil, "ReplicaSet/-1"},
		"a StatefulSet":                  {"StatefulSet", "db", nil, nil, "StatefulSet/db"},
		"a DaemonSet":                    {"DaemonSet", "log", nil, nil, "DaemonSet/log"},
		"a Job":                          {"Job", "migrate", nil, nil, "Job/migrate"},
		"a Job with a short number":      {"Job", "migrate-2024", nil, nil, "Job/migrate-2024"},
		"a CronJob":                      {"Job", "backup-29384756", nil, nil, "CronJob/backup"},
		"a custom kind":                  {"CloneSet", "web", nil, nil, "CloneSet/web"},
		"a kind that is no word":         {"Clone Set", "web", nil, nil, ""},
		"a static pod":                   {"Node", "n1", nil, map[string]string{corev1.MirrorPodAnnotationKey: "x"}, "Pod/web-0"},
		"an owner that has not made it ": {"!ConfigMap", "x", nil, nil, ""},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0", Labels: c.labels, Annotations: c.annotations}}
		yes := true
		switch {
		case c.kind == "!ConfigMap":
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: "ConfigMap", Name: c.owner}}
		case c.kind != "":
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: c.kind, Name: c.owner, Controller: &yes}}
		}
		if c.annotations != nil {
			pod.Name, pod.Spec.NodeName = "web-0-n1", "N1"
		}
		if got := ownerOf(pod).String(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
