package kube

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/model"
)

func TestPlacementOf(t *testing.T) {
	for _, c := range []struct {
		netns, cgroup string
		hostNetwork   bool
		want          *model.Placement
	}{
		{"a", "", false, &model.Placement{NetNS: "/run/netns/a"}},
		{"a", "/pods/a/", false, &model.Placement{NetNS: "/run/netns/a", Cgroup: "pods/a"}},
		{"a", "../x", false, &model.Placement{NetNS: "/run/netns/a"}},
		{"a", "/", false, &model.Placement{NetNS: "/run/netns/a"}},
		{"a", "", true, nil},
		{"", "/pods/a", false, nil},
		{"../../etc", "", false, nil},
		{"..", "", false, nil},
		{".", "", false, nil},
		{"a\x00b", "", false, nil},
		{strings.Repeat("a", 256), "", false, nil},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "1", Annotations: map[string]string{
			AnnotationNetNS: c.netns, AnnotationCgroup: c.cgroup,
		}}}
		p.Spec.HostNetwork = c.hostNetwork
		got := PlacementOf(p, "/run/netns")
		if (got == nil) != (c.want == nil) || got != nil && (got.NetNS != c.want.NetNS || got.Cgroup != c.want.Cgroup || got.Key() != "ns/p/1") {
			t.Errorf("netns %q cgroup %q: %+v, want %+v", c.netns, c.cgroup, got, c.want)
		}
	}
}
