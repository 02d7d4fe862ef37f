package gateway

import (
	"strings"
	"sync"
)

// memo keeps results that cost much to compute. Each follows from its inputs alone, so a unit's outputs do not depend on
// what is in it. It is safe for concurrent use.
type memo struct {
	secrets kept[checkedSecret] // by key of the Secret
	bundles kept[checkedBundle] // by key of the ConfigMap

	mu    sync.Mutex
	hosts map[string]map[string]cachedHost // by route table, then by host
}

func newMemo() *memo { return &memo{hosts: map[string]map[string]cachedHost{}} }

// kept are results by key.
type kept[T any] struct {
	mu sync.Mutex
	by map[string]T
}

// get returns the zero value if nothing is kept.
func (k *kept[T]) get(key string) T {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.by[key]
}

func (k *kept[T]) set(key string, v T) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.by == nil {
		k.by = map[string]T{}
	}
	k.by[key] = v
}

func (k *kept[T]) forget(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.by, key)
}

// hostsOf returns the hosts of a route table. The caller must not change them.
func (m *memo) hostsOf(table string) map[string]cachedHost {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hosts[table]
}

// setHosts takes the map over.
func (m *memo) setHosts(table string, hosts map[string]cachedHost) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hosts[table] = hosts
}

// forgetHosts drops the route tables of a Gateway.
func (m *memo) forgetHosts(gateway string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for table := range m.hosts {
		if strings.HasPrefix(table, "gateway/"+gateway+"/") {
			delete(m.hosts, table)
		}
	}
}
