package kube

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// PlacementOf returns what the annotations of a folder's Pod say about where it runs, nil if they name no network
// namespace in netnsDir. Which namespace that is, is not filled in. The addresses are not either: PodAddresses has them.
func PlacementOf(p *corev1.Pod, netnsDir string) *model.Placement {
	name := p.Annotations[AnnotationNetNS]
	if !IsNetNSName(name) || p.Spec.HostNetwork {
		return nil
	}
	out := &model.Placement{Namespace: p.Namespace, Name: p.Name, UID: NodeUID(p), NetNS: path.Join(netnsDir, name)}
	if cgroup := p.Annotations[AnnotationCgroup]; IsCgroupPath(cgroup) {
		out.Cgroup = strings.Trim(cgroup, "/")
	}
	return out
}

// IsNetNSName reports whether a text can be the name of a file. One with a slash could lead anywhere.
func IsNetNSName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00") && len(s) <= 255
}

// IsCgroupPath reports whether a text is a path that stays below the directory that it is joined to.
func IsCgroupPath(s string) bool {
	return strings.Trim(s, "/") != "" && path.Clean("/"+s) == "/"+strings.Trim(s, "/") && !strings.Contains(s, "\x00") && len(s) <= 4095
}
