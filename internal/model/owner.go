package model

import "strings"

// Owner is the object that pods are grouped by when traffic is counted: a Deployment, StatefulSet, DaemonSet, Job,
// CronJob or a custom kind, or the Pod itself if nothing owns it. Its namespace is the pods'.
type Owner struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// String returns "Kind/Name", or "" for the zero Owner.
func (o Owner) String() string {
	if o == (Owner{}) {
		return ""
	}
	return o.Kind + "/" + o.Name
}

// countedAs returns the owner of a pod, or the pod itself.
func countedAs(owner Owner, pod string) Owner {
	if owner == (Owner{}) {
		return Owner{Kind: "Pod", Name: pod}
	}
	return owner
}

// ParseOwner reads what Owner.String returns.
func ParseOwner(s string) (Owner, bool) {
	kind, name, ok := strings.Cut(s, "/")
	if !ok || kind == "" || name == "" || strings.Contains(name, "/") {
		return Owner{}, false
	}
	return Owner{Kind: kind, Name: name}, true
}
