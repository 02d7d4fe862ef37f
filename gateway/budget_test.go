package gateway

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/model"
)

var nextAddress = netip.MustParseAddr("10.96.0.1")

// portsService is a Service with TCP ports 1 to n, younger than those of a lower order, each with a target port of its own, and a slice for each 100 of them with
// so many endpoints.
func portsService(t *testing.T, w *world, namespace, name string, order, ports, endpoints int) {
	t.Helper()
	svc := &corev1.Service{ObjectMeta: created(namespace, name, 1000-order), Spec: corev1.ServiceSpec{ClusterIP: nextAddress.String()}}
	nextAddress = nextAddress.Next()
	var slice *discoveryv1.EndpointSlice
	for p := 1; p <= ports; p++ {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", p), Port: int32(p)})
		if endpoints == 0 {
			continue
		}
		if p%100 == 1 {
			slice = &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: fmt.Sprint(name, "-", p), Labels: map[string]string{discoveryv1.LabelServiceName: name},
			}, AddressType: discoveryv1.AddressTypeIPv4}
			for i := range endpoints {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("172.16.%d.%d", i>>8, i&255)}})
			}
		}
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: new(fmt.Sprint("p", p)), Port: new(int32(10_000 + p))})
		if p%100 == 0 || p == ports {
			w.put(t, slice)
		}
	}
	w.put(t, svc)
}

// taken counts what the Services of the model take of the kernel's tables, in a namespace, "" for all.
func (w *world) taken(namespace string) (frontends, slots int) {
	s := w.st.Snapshot()
	for svc := range w.st.Services.All(s) {
		if namespace != "" && svc.Namespace != namespace || len(svc.Addresses) == 0 {
			continue
		}
		frontends += len(svc.Addresses) * len(svc.Ports)
		sets := map[string]int{}
		for _, p := range svc.Ports {
			e, _ := w.st.Endpoints.Get(s, model.PortKey(svc.Namespace, svc.Name, p.Port, p.Protocol))
			sets[fmt.Sprint(e.Backends)] = len(e.Backends)
		}
		for _, n := range sets {
			slots += n
		}
	}
	return frontends, slots
}

// TestOneNamespaceDoesNotFillTheKernelsTables: the older Services of the greedy one stay, its younger ones are closed and say
// so, and a Service of another namespace that is younger than all gets what it asks for.
func TestOneNamespaceDoesNotFillTheKernelsTables(t *testing.T) {
	cfg := testConfig
	cfg.NamespaceShare = 1
	w := newWorld(cfg)
	for i := range 12 {
		portsService(t, w, "greedy", fmt.Sprint("s", i), i+1, 100, 0)
	}
	portsService(t, w, "modest", "web", 99, 3, 3)
	w.Sync()
	if f, _ := w.taken("greedy"); f > model.MaxFrontends/100 || f == 0 {
		t.Errorf("one namespace has %d frontends", f)
	}
	if f, s := w.taken("modest"); f != 3 || s != 9 {
		t.Errorf("the other has %d frontends and %d slots", f, s)
	}
	first, last := w.service(t, "greedy/s0"), w.service(t, "greedy/s11")
	if len(first.Addresses) != 1 || len(last.Addresses) != 0 || len(last.Refused) != 1 {
		t.Errorf("the oldest has %v, the youngest %v and refuses %v", first.Addresses, last.Addresses, last.Refused)
	}
	if p := w.problemOf("Service", "greedy", "s11"); !strings.Contains(p, "OverBudget") || !strings.Contains(p, "namespaceShare") {
		t.Errorf("problem of the youngest: %q", p)
	}
	if p := w.problemOf("Service", "greedy", "s0"); p != "" {
		t.Errorf("problem of the oldest: %q", p)
	}
}

// TestOneServiceDoesNotFillSlots: one with more endpoints than fit keeps so many of them.
func TestOneServiceDoesNotFillSlots(t *testing.T) {
	cfg := testConfig
	cfg.NamespaceShare = 1
	w := newWorld(cfg)
	portsService(t, w, "greedy", "wide", 1, 100, 70)
	portsService(t, w, "modest", "web", 99, 3, 70)
	w.Sync()
	if _, s := w.taken("greedy"); s > model.MaxSlots/100 || s < model.MaxSlots/110 {
		t.Errorf("one namespace has %d slots of %d", s, model.MaxSlots)
	}
	if _, s := w.taken("modest"); s != 210 {
		t.Errorf("the other has %d slots, want 210", s)
	}
	if p := w.problemOf("Service", "greedy", "wide"); !strings.Contains(p, "52 backends of each port") {
		t.Errorf("problem: %q", p)
	}
}

// TestManyGreedyNamespacesLeaveOthersTheirs: what all ask for is more than there is, and still nobody loses who asks for
// little.
func TestManyGreedyNamespacesLeaveOthersTheirs(t *testing.T) {
	w := newWorld(testConfig)
	for ns := range 6 {
		for i := range 5 {
			portsService(t, w, fmt.Sprint("greedy-", ns), fmt.Sprint("s", i), i+1, 2048, 0)
		}
	}
	portsService(t, w, "kube-system", "dns", 98, 3, 2)
	portsService(t, w, "modest", "web", 99, 3, 3)
	w.Sync()
	if f, _ := w.taken(""); f > model.MaxFrontends-model.MaxFrontends/systemReserve+3 {
		t.Errorf("%d frontends leave no reserve", f)
	}
	for _, ns := range []string{"kube-system", "modest"} {
		if f, _ := w.taken(ns); f != 3 {
			t.Errorf("%s has %d frontends", ns, f)
		}
	}
	for ns := range 6 {
		if f, _ := w.taken(fmt.Sprint("greedy-", ns)); f < 4*2048 {
			t.Errorf("greedy namespace %d has %d frontends", ns, f)
		}
	}
}

// TestBudgetIsGivenBack: when an old Service goes, the young one is served.
func TestBudgetIsGivenBack(t *testing.T) {
	cfg := testConfig
	cfg.NamespaceShare = 5 // 3276 frontends
	w := newWorld(cfg)
	portsService(t, w, "ns", "old", 1, 2048, 1)
	portsService(t, w, "ns", "young", 2, 2048, 1)
	w.Sync()
	if got := w.service(t, "ns/young"); len(got.Addresses) != 0 {
		t.Errorf("the young one has %v", got.Addresses)
	}
	txn := w.objs.Write()
	w.objs.Services.Delete(txn, "ns/old")
	txn.Commit()
	w.Sync()
	if got := w.service(t, "ns/young"); len(got.Addresses) != 1 || len(got.Refused) != 0 {
		t.Errorf("the young one has %v and refuses %v", got.Addresses, got.Refused)
	}
}

// TestDemandIsNeverTooSmall: ports with the same numbers in other orders must not pass for the same backends.
func TestDemandIsNeverTooSmall(t *testing.T) {
	w := newWorld(testConfig)
	svc := &corev1.Service{ObjectMeta: created("ns", "s", 1), Spec: corev1.ServiceSpec{ClusterIP: "10.99.0.1"}}
	for p := range 8 {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", p), Port: int32(p + 1)})
	}
	w.put(t, svc)
	for s := range 3 {
		slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: fmt.Sprint("s", s), Labels: map[string]string{discoveryv1.LabelServiceName: "s"},
		}, AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{fmt.Sprint("172.16.0.", s+1)}}}}
		for p := range 8 {
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: new(fmt.Sprint("p", p)), Port: new(int32(100 + p>>s&1))})
		}
		w.put(t, slice)
	}
	w.Sync()
	d, ok := w.demands.Get(w.st.Snapshot(), "ns/s")
	_, slots := w.taken("ns")
	if !ok || d.slots < slots || slots != 24 {
		t.Errorf("the demand is %+v, and %d slots are taken", d, slots)
	}
}

func TestFairLevel(t *testing.T) {
	for _, tt := range []struct {
		capacity int
		asked    []int
		level    int
	}{
		{10, nil, math.MaxInt}, {10, []int{4, 5}, math.MaxInt}, {10, []int{20}, 10}, {10, []int{1, 20}, 9},
		{10, []int{20, 20, 1}, 4}, {0, []int{1}, 0}, {7, []int{3, 3, 3}, 2},
	} {
		if got := fairLevel(tt.capacity, slices.Clone(tt.asked)); got != tt.level {
			t.Errorf("%d for %v: level %d, want %d", tt.capacity, tt.asked, got, tt.level)
		}
	}
}
