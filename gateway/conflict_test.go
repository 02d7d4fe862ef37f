package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/model"
)

// created returns metadata of an object that is so many seconds old.
func created(namespace, name string, age int) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-time.Duration(age) * time.Second)),
	}
}

// TestOneServiceDoesNotTakeAllOfTheKernelsTables: an object of a megabyte holds this.
func TestOneServiceDoesNotTakeAllOfTheKernelsTables(t *testing.T) {
	cfg := testConfig
	cfg.ExternalIPs = everything
	w := newWorld(cfg)
	svc := &corev1.Service{ObjectMeta: created("ns", "huge", 1), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}}}
	for i := range 500 {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", i), Port: int32(i + 1)})
	}
	for i := range 20_000 {
		svc.Spec.ExternalIPs = append(svc.Spec.ExternalIPs, netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}).String())
	}
	w.put(t, svc)
	w.Sync()
	s := w.st.Snapshot()
	got, ok := w.st.Services.Get(s, "ns/huge")
	if !ok || len(got.Ports) != 500 || len(got.Addresses)*len(got.Ports) > maxFrontends || got.Addresses[0].String() != "10.96.0.1" {
		t.Errorf("%d addresses, %d ports", len(got.Addresses), len(got.Ports))
	}
	st, ok := w.st.Statuses.Get(s, (&model.Status{Object: model.ObjectRef{Kind: "Service", Namespace: "ns", Name: "huge"}}).Key())
	if !ok || st.Conditions[0].Status || len(st.Conditions[0].Message) > 1000 {
		t.Errorf("status %+v", st)
	}
}

func TestWiderHostsAreAllWildcardsThatCover(t *testing.T) {
	all := []string{"*", "*.com", "*.example.com", "*.a.example.com", "*.b.example.com", "a.example.com", "x.a.example.com", "example.com", "com"}
	for _, h := range all {
		var want []string
		for _, w := range all {
			if strings.HasPrefix(w, "*") && w != h && covers(w, h) {
				want = append(want, w)
			}
		}
		got := slices.DeleteFunc(widerHosts(h), func(w string) bool { return !slices.Contains(all, w) })
		slices.Reverse(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s is covered by %v, want %v", h, got, want)
		}
	}
}

// TestHostSetFindsWhatOverlapFinds: the set is only faster.
func TestHostSetFindsWhatOverlapFinds(t *testing.T) {
	all := []string{"*", "*.com", "*.example.com", "*.a.example.com", "a.example.com", "x.a.example.com", "example.com", "other.com", "com"}
	for _, in := range all {
		s := newHostSet()
		s.add(in)
		for _, h := range all {
			if got, want := s.overlaps(h), overlap([]string{in}, []string{h}); got != want {
				t.Errorf("%s and %s: %v, want %v", in, h, got, want)
			}
		}
	}
}

// TestAStaticPodHasNoIdentity: a node can make the mirror of a static pod in any namespace.
func TestAStaticPodHasNoIdentity(t *testing.T) {
	for _, source := range []AddressSource{AddressesOfStatus, AddressesOfPools} {
		cfg := testConfig
		cfg.Addresses = source
		w := newWorld(cfg)
		meta := created("ns", "static", 1)
		meta.Labels = map[string]string{"weft.io/mtls": "strict"}
		meta.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
		w.put(t, &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: "node-1"}, Status: corev1.PodStatus{PodIP: "10.0.0.1"}})
		w.Sync()
		if l, ok := w.st.Workloads.Get(w.st.Snapshot(), "ns/static"); !ok || l.Identity != "" || l.MTLS != model.MTLSStrict {
			t.Errorf("workload %+v", l)
		}
	}
}
