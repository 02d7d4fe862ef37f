package datapath

import (
	"maps"
	"sync"
)

// fakeTable is a table in memory. With a limit it can be full; fail may refuse single writes.
type fakeTable[K, V comparable] struct {
	mu      sync.Mutex
	entries map[K]V
	limit   int
	fail    func(K) error
	failPut error
	writes  int
	// seen is called under the lock after each change.
	seen func(map[K]V)
}

func newFakeTable[K, V comparable]() *fakeTable[K, V] { return &fakeTable[K, V]{entries: map[K]V{}} }

func (t *fakeTable[K, V]) Put(k K, v V) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fail != nil {
		if err := t.fail(k); err != nil {
			return err
		}
	}
	if t.failPut != nil {
		return t.failPut
	}
	if _, ok := t.entries[k]; !ok && t.limit > 0 && len(t.entries) >= t.limit {
		return fullError(t.limit)
	}
	t.entries[k] = v
	t.changed()
	return nil
}

func (t *fakeTable[K, V]) Delete(k K) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fail != nil {
		if err := t.fail(k); err != nil {
			return err
		}
	}
	delete(t.entries, k)
	t.changed()
	return nil
}

func (t *fakeTable[K, V]) changed() {
	t.writes++
	if t.seen != nil {
		t.seen(t.entries)
	}
}

func (t *fakeTable[K, V]) Limit() int { return t.limit }

func (t *fakeTable[K, V]) All() (map[K]V, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.entries), nil
}

// fakeTables are all tables in memory.
type fakeTables struct {
	frontends  *fakeTable[weftFrontendKey, weftFrontend]
	slots      *fakeTable[weftSlotKey, weftEndpoint]
	members    *fakeTable[weftMemberKey, uint32]
	peers      *fakeTable[weftAddress, uint32]
	inspected  *fakeTable[weftEndpoint, uint32]
	pods       *fakeTable[uint64, uint32]
	namespaces *fakeTable[uint64, weftPath]
	own        *fakeTable[weftOwnKey, uint32]
	selves     *fakeTable[weftSelfKey, weftAddress]
	probes     *fakeTable[weftEndpoint, weftProbe]
	requests   *fakeTable[weftProbeRequest, uint32]
	cgroups    *fakeTable[uint64, uint32]
	nodes      *fakeTable[weftAddress, uint32]
	otherNodes *fakeTable[weftAddress, uint32]
}

func newFakeTables() *fakeTables {
	return &fakeTables{
		frontends: newFakeTable[weftFrontendKey, weftFrontend](), slots: newFakeTable[weftSlotKey, weftEndpoint](),
		members: newFakeTable[weftMemberKey, uint32](), peers: newFakeTable[weftAddress, uint32](),
		inspected: newFakeTable[weftEndpoint, uint32](), pods: newFakeTable[uint64, uint32](), namespaces: newFakeTable[uint64, weftPath](),
		own: newFakeTable[weftOwnKey, uint32](), selves: newFakeTable[weftSelfKey, weftAddress](), probes: newFakeTable[weftEndpoint, weftProbe](),
		requests: newFakeTable[weftProbeRequest, uint32](), cgroups: newFakeTable[uint64, uint32](),
		nodes: newFakeTable[weftAddress, uint32](), otherNodes: newFakeTable[weftAddress, uint32](),
	}
}

func (f *fakeTables) tables() tables {
	return tables{
		frontends: f.frontends, slots: f.slots, members: f.members, peers: f.peers, inspected: f.inspected, pods: f.pods,
		namespaces: f.namespaces, own: f.own, selves: f.selves, probes: f.probes, requests: f.requests, cgroups: f.cgroups, nodes: f.nodes, otherNodes: f.otherNodes,
	}
}
