package datapath

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weft-mesh/weft/internal/model"
)

// usageEvery is how often entries are counted in maps that programs write.
const usageEvery = 30 * time.Second

// measure writes how full the maps are to MapUsage.
func (r *reconciler) measure() {
	w := r.st.Write(r.st.MapUsage)
	defer w.Commit()
	for _, m := range []struct {
		name    string
		entries int
		limit   func() int
	}{
		{weftMapFrontends, len(r.services.frontends.have), r.tables.frontends.Limit},
		{weftMapSlots, len(r.services.slots.have), r.tables.slots.Limit},
		{weftMapMembers, len(r.services.members.have), r.tables.members.Limit},
		{weftMapPeers, len(r.workloads.peers.have), r.tables.peers.Limit},
		{weftMapInspectedPorts, len(r.workloads.inspected.have), r.tables.inspected.Limit},
		{weftMapPods, len(r.workloads.pods.have), r.tables.pods.Limit},
		{weftMapNamespaces, len(r.workloads.paths.have), r.tables.namespaces.Limit},
		{weftMapOwn, len(r.workloads.own.have), r.tables.own.Limit},
		{weftMapSelves, len(r.workloads.selves.have), r.tables.selves.Limit},
		{weftMapProbes, len(r.workloads.probes.ports.have), r.tables.probes.Limit},
		{weftMapProbeRequests, len(r.workloads.probes.requests.have), r.tables.requests.Limit},
		{weftMapPodCgroups, len(r.podCgroups.have), r.tables.cgroups.Limit},
		{weftMapNodes, len(r.nodes.have), r.tables.nodes.Limit},
		{weftMapOtherNodes, len(r.otherNodes.have), r.tables.otherNodes.Limit},
	} {
		r.st.MapUsage.Put(w, &model.MapUsage{Name: m.name, Entries: m.entries, Max: m.limit()})
	}
	if r.usage == nil || time.Since(r.measured) < usageEvery {
		return
	}
	r.measured = time.Now()
	counted, err := r.usage()
	if err != nil {
		r.log.Error("cannot tell how full maps of the kernel are", "error", err)
	}
	for _, m := range counted {
		r.st.MapUsage.Put(w, &m)
	}
}

// usage counts the entries of maps that programs write. Those of the rings are bytes. What is kept with a socket
// (conns, udp_services) is bounded by the number of sockets.
func (d *Datapath) usage() (out []model.MapUsage, err error) {
	var errs []error
	for _, m := range []struct {
		name  string
		cache bool
		count func(*ebpf.Map) (int, error)
	}{
		{weftMapAffinities, true, countEntries[weftAffinityKey, weftAffinity]},
		{weftMapByTuple, false, countEntries[weftTuple, weftEndpoint]},
		{weftMapFromProxy, false, countEntries[weftFlow, uint32]},
		{weftMapProbeFlows, true, countEntries[weftProbeFlow, uint64]},
		{weftMapProbeSockets, false, countKeys[uint64]},
		{weftMapListeners, false, countKeys[weftListenerKey]},
		{weftMapQuotas, true, countEntries[weftQuotaKey, weftQuota]},
		{weftMapAdmissions, true, countEntries[weftSource, uint64]},
		{weftMapGuests, true, countEntries[weftGuest, uint64]},
		{weftMapExchanges, false, countEntries[weftExchangeKey, weftExchange]},
	} {
		n, err := m.count(d.maps[m.name])
		if err != nil {
			errs = append(errs, fmt.Errorf("map %s: %w", m.name, err))
			continue
		}
		out = append(out, model.MapUsage{Name: m.name, Entries: n, Max: int(d.maps[m.name].MaxEntries()), Cache: m.cache})
	}
	for name, used := range map[string]*atomic.Int64{weftMapEvents: &d.ringUsed, weftMapDnsMessages: &d.dnsUsed} {
		out = append(out, model.MapUsage{Name: name, Entries: int(used.Load()), Max: int(d.maps[name].MaxEntries())})
	}
	return out, errors.Join(errs...)
}

// countEntries reads a hash map in batches.
func countEntries[K, V any](m *ebpf.Map) (int, error) {
	const batch = 4096
	keys, values := make([]K, batch), make([]V, batch)
	var cursor ebpf.MapBatchCursor
	total := 0
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		total += n
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return total, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// countKeys walks a map that cannot be read in batches. A walk over a map that changes may begin again, so it is bounded.
func countKeys[K any](m *ebpf.Map) (int, error) {
	var key, next K
	var from any // nil asks for the first
	for n := 0; ; n++ {
		err := m.NextKey(from, &next)
		if errors.Is(err, ebpf.ErrKeyNotExist) || n >= int(m.MaxEntries()) {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		key = next
		from = &key
	}
}
