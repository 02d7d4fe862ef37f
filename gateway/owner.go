package gateway

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

// Labels whose value ends the name of a ReplicaSet, by the kind that made the ReplicaSet.
var replicaSetHashes = []struct{ label, kind string }{
	{"pod-template-hash", "Deployment"},
	{"rollouts-pod-template-hash", "Rollout"},
}

// ownerOf returns what a pod is counted as, or the zero Owner if that is the pod itself. ReplicaSets and Jobs are not read from the API: their names and the pod's
// labels say which Deployment, Rollout or CronJob made them.
func ownerOf(pod *corev1.Pod) model.Owner {
	c := metav1.GetControllerOfNoCopy(pod)
	switch {
	case kube.IsMirror(pod):
		// The kubelet adds the node's name, so that there is one object a node.
		return model.Owner{Kind: "Pod", Name: strings.TrimSuffix(pod.Name, "-"+strings.ToLower(pod.Spec.NodeName))}
	case c == nil || c.Name == "" || !plainKind(c.Kind) || strings.Contains(c.Name, "/"):
		return model.Owner{}
	case c.Kind == "ReplicaSet":
		for _, h := range replicaSetHashes {
			hash := pod.Labels[h.label]
			if name, ok := strings.CutSuffix(c.Name, "-"+hash); ok && hash != "" && name != "" {
				return model.Owner{Kind: h.kind, Name: name}
			}
		}
	case c.Kind == "Job":
		if name, ok := cutSchedule(c.Name); ok {
			return model.Owner{Kind: "CronJob", Name: name}
		}
	}
	return model.Owner{Kind: c.Kind, Name: c.Name}
}

// plainKind reports whether a kind has letters and digits only. In a folder of manifests nobody else checks it.
func plainKind(kind string) bool {
	for _, r := range kind {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return false
		}
	}
	return kind != ""
}

// cutSchedule cuts the time that a CronJob adds to the name of its Jobs, in minutes since 1970: 8 digits since 1989.
func cutSchedule(job string) (string, bool) {
	i := strings.LastIndexByte(job, '-')
	if i <= 0 || len(job)-i-1 < 8 || strings.Trim(job[i+1:], "0123456789") != "" {
		return "", false
	}
	return job[:i], true
}
