package manifests

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

func TestSearchPod(t *testing.T) {
	ref := model.ObjectRef{Kind: "Pod", Namespace: "shop", Name: "web"}
	for _, c := range []struct {
		name, text           string
		netns, ip, mode, sap string // "" netns: nothing stands in
	}{
		{"block", "metadata:\n  annotations:\n    weft.io/netns: a\n    weft.io/ip: '10.0.0.1'\nspec:\n  serviceAccountName: web\n  {", "a", "10.0.0.1", "", "web"},
		{"flow", `annotations: {weft.io/netns: a, "weft.io/ip": "10.0.0.1"}, x: [`, "a", "10.0.0.1", "", ""},
		{"status", "weft.io/netns: a\nstatus: {podIP: fd00::1}\n}", "a", "fd00::1", "", ""},
		{"a mode", "labels: {weft.io/mtls: permissive}\nweft.io/netns: a\nweft.io/ip: 10.0.0.1", "a", "10.0.0.1", "permissive", ""},
		{"a mode that opens", "labels: {weft.io/mtls: disabled}\nweft.io/netns: a\nweft.io/ip: 10.0.0.1", "a", "10.0.0.1", "strict", ""},
		{"a mode that is none", "labels: {weft.io/mtls: [}\nweft.io/netns: a\nweft.io/ip: 10.0.0.1", "a", "10.0.0.1", "strict", ""},
		{"another field", "not-weft.io/netns: a\nweft.io/ip: 10.0.0.1", "", "", "", ""},
		{"a comment", "# weft.io/netns: a\nweft.io/ip: 10.0.0.1", "", "", "", ""},
		{"a bad name", "weft.io/netns: ../a\nweft.io/ip: 10.0.0.1", "", "", "", ""},
		{"a bad address", "weft.io/netns: a\nweft.io/ip: 127.0.0.1", "", "", "", ""},
		{"the host's network", "hostNetwork: true\nweft.io/netns: a\nweft.io/ip: 10.0.0.1", "", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			obj, note := closedPod(ref, nil, []byte(c.text))
			if c.netns == "" {
				if obj != nil || note != "" {
					t.Errorf("%+v stands in: %s", obj, note)
				}
				return
			}
			p, ok := obj.(*corev1.Pod)
			if !ok || note == "" {
				t.Fatal("nothing stands in")
			}
			addrs, _ := kube.PodAddresses(p)
			if p.Annotations[kube.AnnotationNetNS] != c.netns || len(addrs) != 1 || addrs[0].String() != c.ip ||
				p.Labels[kube.LabelMTLS] != c.mode || p.Spec.ServiceAccountName != c.sap || p.Namespace != "shop" || p.Name != "web" {
				t.Errorf("%+v", p)
			}
		})
	}
}
