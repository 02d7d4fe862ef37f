package gateway

import (
	"strings"
	"sync"
)

// memo keeps results that cost much to compute. Each follows from its inputs alone, so a unit's outputs do not depend on
// what is in it. It is safe for concurrent use.
type memo struct {
	mu      sync.Mutex
	secrets map[string]checkedSecret         // by key of the Secret
	bundles map[string]checkedBundle         // by key of the ConfigMap
	hosts   map[string]map[string]cachedHost // by route table, then by host
}

func newMemo() *memo {
	return &memo{secrets: map[string]checkedSecret{}, bundles: map[string]checkedBundle{}, hosts: map[string]map[string]cachedHost{}}
}

func (m *memo) secret(key string) checkedSecret {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.secrets[key]
}

func (m *memo) setSecret(key string, c checkedSecret) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.secrets[key] = c
}

func (m *memo) forgetSecret(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.secrets, key)
}

func (m *memo) bundle(key string) checkedBundle {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bundles[key]
}

func (m *memo) setBundle(key string, c checkedBundle) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bundles[key] = c
}

func (m *memo) forgetBundle(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.bundles, key)
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
