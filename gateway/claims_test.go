package gateway

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func rangedNode(name string, ranges ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: ranges}}
	if len(ranges) > 0 {
		n.Spec.PodCIDR = ranges[0]
	}
	return n
}

func onNode(p *corev1.Pod, node string) *corev1.Pod {
	p.Spec.NodeName = node
	return p
}

// Of several claims to an address those count that fit: what the CNI gave a pod of this node, and what is of its node's podCIDRs
// where the CNI gives addresses by them. The address is nobody's only if that does not tell whose it is.
func TestClaimsThatFit(t *testing.T) {
	const own, cidr4, cidr6 = "10.244.0.0/24", "10.244.1.0/24", "fd00:1::/64"
	const elsewhere4, elsewhere6 = "10.244.2.0/24", "fd00:2::/64"
	for name, tc := range map[string]struct {
		placed  string // the address that the CNI gave a pod of this node
		victim  []string
		evil    []string
		address string
		local   bool // the victim is on this node, and the CNI gave it the address
		want    string
	}{
		"podCIDRs tell":                    {"10.244.0.5", []string{cidr4}, []string{elsewhere4}, "10.244.1.7", false, "victim"},
		"podCIDRs tell, IPv6":              {"10.244.0.5", []string{cidr4, cidr6}, []string{elsewhere4, elsewhere6}, "fd00:1::7", false, "victim"},
		"the other has none":               {"10.244.0.5", []string{cidr4}, nil, "10.244.1.7", false, ""},
		"the other has none of the family": {"10.244.0.5", []string{cidr4, cidr6}, []string{elsewhere4}, "fd00:1::7", false, ""},
		"both fit":                         {"10.244.0.5", []string{cidr4}, []string{cidr4}, "10.244.1.7", false, ""},
		"none fits":                        {"10.244.0.5", []string{cidr4}, []string{elsewhere4}, "10.250.0.7", false, ""},
		"this CNI does not give addresses by podCIDRs": {"10.250.0.5", []string{cidr4}, []string{elsewhere4}, "10.244.1.7", false, ""},
		"nobody knows whether it does":                 {"", []string{cidr4}, []string{elsewhere4}, "10.244.1.7", false, ""},
		"the CNI gave it here":                         {"10.244.0.5", nil, []string{"10.244.0.0/16"}, "10.244.0.7", true, "victim"},
		"the CNI gave it here, IPv6":                   {"10.244.0.5", nil, []string{"fd00::/32"}, "fd00::7", true, "victim"},
	} {
		t.Run(name, func(t *testing.T) {
			w := clusterNode()
			w.put(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"weft.io/mtls": "strict"}}})
			w.put(t, rangedNode(testConfig.Node, own))
			w.put(t, rangedNode("victims", tc.victim...))
			w.put(t, rangedNode("evils", tc.evil...))
			w.put(t, clusterPod("other", "9", "10.244.0.99"))
			if tc.placed != "" {
				w.placed("other", "9", "other", tc.placed)
			}
			victim := onNode(clusterPod("victim", "1", tc.address), "victims")
			if tc.local {
				victim.Spec.NodeName = testConfig.Node
				w.placed("victim", "1", "victim", tc.address)
			}
			victim.CreationTimestamp = metav1.Unix(2e9, 0) // the other is older
			w.put(t, victim)
			w.put(t, onNode(clusterPod("evil", "2", tc.address), "evils"))
			w.Translator.Sync()
			for _, pod := range []string{"victim", "evil"} {
				got, ok := w.st.Workloads.Get(w.st.Snapshot(), "ns/"+pod)
				if !ok {
					t.Fatalf("no workload %s", pod)
				}
				if has := len(got.Addresses) == 1; has != (pod == tc.want) {
					t.Errorf("%s has %v", pod, got.Addresses)
				}
				if nobodys := len(got.Contested) == 1; nobodys != (tc.want == "") {
					t.Errorf("of %s nobody knows who has %v", pod, got.Contested)
				}
			}
		})
	}
}
