package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// demand is what a Service would take of the kernel's tables. It follows from the objects alone, so every node comes to the
// same. It may be more than the Service takes in the end, and is never less.
type demand struct {
	service   string // key
	namespace string
	created   time.Time
	addresses int
	frontends int // addresses, each with each port
	sets      int // of ports that have the same backends
	slots     int // backends of all sets
}

func newDemands(db *state.DB) *state.Table[*demand] {
	return state.NewTable(db, "gateway-demands", func(d *demand) string { return d.service })
}

var demandUnits = unitKind{
	name: "demand", stage: stageDemands, compute: findDemand,
	objects: rowsOf(func(o *kube.Objects) *state.Table[*corev1.Service] { return o.Services }),
}

// findDemand adds up what a Service asks for. A Service without an address takes nothing.
func findDemand(v *view, key string) ([]output, bool) {
	svc, ok := v.objs.Services.Get(v.Snapshot, key)
	if !ok {
		return nil, false
	}
	addrs, _ := kube.ServiceAddresses(svc)
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !v.mayName(svc, a) })
	if svc.Spec.Type == corev1.ServiceTypeExternalName || len(addrs) == 0 {
		return nil, true
	}
	var ignored problems
	ports := servicePorts(svc, &ignored)
	addresses := min(len(addrs), maxAddresses(svc))
	d := &demand{
		service: key, namespace: svc.Namespace, created: svc.CreationTimestamp.Time,
		addresses: addresses, frontends: addresses * len(ports),
	}
	d.sets, d.slots = v.backendDemand(svc, ports)
	return []output{out(v.demands, key, d)}, true
}

// backendDemand counts the sets of ports that cannot have different backends, and the backends of all sets. Backends that
// are not ready count too, so that a probe that fails for a moment changes nothing.
func (v *view) backendDemand(svc *corev1.Service, ports []model.ServicePort) (sets, slots int) {
	if _, ok := kube.GatewayOfService(svc); ok {
		return len(ports), 2 * len(ports) // an address of each family
	}
	var in []*discoveryv1.EndpointSlice
	var sizes []int
	for s := range v.objs.EndpointSlices.By(v.Snapshot, kube.ByService, kube.Key(svc)) {
		n := 0
		for i := range s.Endpoints {
			n += len(s.Endpoints[i].Addresses)
		}
		in, sizes = append(in, s), append(sizes, n)
	}
	if len(in) == 0 {
		return v.podDemand(svc)
	}
	seen := map[string]bool{}
	for _, port := range ports {
		// Ports that lead to the same number in each slice have the same backends.
		var b strings.Builder
		b.WriteString(port.Protocol.String())
		size := 0
		for i, s := range in {
			number, ok := slicePort(s, port)
			if ok {
				size += sizes[i]
			}
			b.WriteByte(' ')
			b.WriteString(strconv.Itoa(int(number)))
		}
		if !seen[b.String()] {
			seen[b.String()] = true
			slots += size
		}
	}
	return len(seen), slots
}

// podDemand is backendDemand where the selector finds the backends.
func (v *view) podDemand(svc *corev1.Service) (sets, slots int) {
	addresses := 0
	for _, p := range v.selected(svc) {
		addrs, _ := kube.PodAddresses(p)
		addresses += max(len(addrs), 1)
	}
	seen := map[string]bool{}
	for _, p := range svc.Spec.Ports {
		target := p.TargetPort.String()
		if target == "0" {
			target = strconv.Itoa(int(p.Port))
		}
		seen[fmt.Sprintf("%s/%s", target, p.Protocol)] = true
	}
	return len(seen), len(seen) * addresses
}
