package gateway

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weft-mesh/weft/internal/model"
)

// clusterNode is a translator of a cluster's node, whose placements are those that the test writes.
func clusterNode() *world {
	cfg := testConfig
	cfg.Addresses = AddressesOfStatus
	return newWorld(cfg)
}

func clusterPod(name, uid string, ips ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid)},
		Spec:       corev1.PodSpec{NodeName: testConfig.Node},
	}
	for _, ip := range ips {
		p.Status.PodIP = ips[0]
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

func (w *world) placed(name, uid, netns string, addrs ...string) {
	p := &model.Placement{Namespace: "ns", Name: name, UID: uid, NetNS: "/run/netns/" + netns, Inode: 1}
	for _, a := range addrs {
		p.Addresses = append(p.Addresses, netip.MustParseAddr(a))
	}
	txn := w.st.Write(w.st.Placements)
	w.st.Placements.Put(txn, p)
	txn.Commit()
}

func (w *world) unplaced(name, uid string) {
	txn := w.st.Write(w.st.Placements)
	w.st.Placements.Delete(txn, model.PlacementKey("ns", name, uid))
	txn.Commit()
}

// wantWorkload translates what changed and checks the workload of a pod.
func (w *world) wantWorkload(t *testing.T, what, name, netns string, addrs ...string) {
	t.Helper()
	w.Translator.Sync()
	got, ok := w.st.Workloads.Get(w.st.Snapshot(), "ns/"+name)
	if !ok {
		t.Fatalf("%s: no workload", what)
	}
	if netns != "" {
		netns = "/run/netns/" + netns
	}
	var have []string
	for _, a := range got.Addresses {
		have = append(have, a.String())
	}
	if got.NetNS != netns || !slices.Equal(have, addrs) {
		t.Errorf("%s: pod %s is in %q with %v, want %q with %v", what, name, got.NetNS, have, netns, addrs)
	}
}

func TestPlacementBelongsToOnePod(t *testing.T) {
	w := clusterNode()
	w.placed("p", "1", "a")
	w.put(t, clusterPod("p", "1"))
	w.wantWorkload(t, "a pod that came after its placement", "p", "a")
	w.put(t, clusterPod("p", "2"))
	w.wantWorkload(t, "a later pod of the name", "p", "")
	w.placed("p", "1", "b")
	w.placed("p", "2", "c")
	w.wantWorkload(t, "both have one", "p", "c")
	w.unplaced("p", "2")
	w.wantWorkload(t, "its placement went", "p", "")

	mirror := func(name string) *corev1.Pod {
		p := clusterPod(name, "of-"+name)
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
		return p
	}
	w.put(t, mirror("static"), mirror("thief"))
	w.placed("static", "hash", "d")
	w.wantWorkload(t, "a static pod has the UID of its mirror's annotation", "static", "d")
	w.wantWorkload(t, "a pod that claims its UID", "thief", "")
}

func TestPlacementOnAnotherNodeOrInTheHostsNetwork(t *testing.T) {
	w := clusterNode()
	far, host := clusterPod("far", "1", "10.0.0.1"), clusterPod("host", "2", "192.168.0.1")
	far.Spec.NodeName, host.Spec.HostNetwork = "other", true
	w.put(t, far, host)
	w.placed("far", "1", "a", "10.0.0.2")
	w.placed("host", "2", "b", "10.0.0.3")
	w.wantWorkload(t, "a pod of another node", "far", "", "10.0.0.1")
	if _, ok := w.st.Workloads.Get(w.st.Snapshot(), "ns/host"); ok {
		t.Error("a pod in the host's network is a workload")
	}
}

// The CNI result is known before the status, and a status may still have the addresses of the sandbox before.
func TestPlacementGivesAddressesUntilTheStatusHasSome(t *testing.T) {
	w := clusterNode()
	w.put(t, clusterPod("p", "1"))
	w.wantWorkload(t, "nothing is known", "p", "")
	w.placed("p", "1", "a", "fd00::1", "10.0.0.1", "127.0.0.1")
	w.wantWorkload(t, "before the status", "p", "a", "10.0.0.1", "fd00::1")
	w.put(t, clusterPod("p", "1", "10.0.0.9"))
	w.wantWorkload(t, "with the status of the sandbox before", "p", "a", "10.0.0.1", "fd00::1")

	// The address of the sandbox before is another pod's by now, and both have theirs.
	next := clusterPod("next", "2", "10.0.0.9")
	next.CreationTimestamp = metav1.NewTime(time.Unix(1e9, 0))
	w.put(t, next)
	w.wantWorkload(t, "with the old address of another", "next", "", "10.0.0.9")
	w.wantWorkload(t, "whose old address another has", "p", "a", "10.0.0.1", "fd00::1")

	// An address that only a placement has is claimed too.
	rival := clusterPod("rival", "3", "10.0.0.1")
	rival.CreationTimestamp = metav1.NewTime(time.Unix(2e9, 0))
	w.put(t, rival)
	w.wantWorkload(t, "that wants the address of an older pod", "rival", "")

	w.put(t, clusterPod("p", "1", "10.0.0.2", "fd00::1"))
	w.wantWorkload(t, "with a status", "p", "a", "10.0.0.2", "fd00::1")
	w.wantWorkload(t, "whose rival has another address", "rival", "", "10.0.0.1")
}
