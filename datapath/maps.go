package datapath

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// table is a BPF hash map. Put and Delete are atomic for those who look up; Delete of a missing key is no error.
type table[K, V comparable] interface {
	Put(K, V) error
	Delete(K) error
	All() (map[K]V, error)
	// Limit is the number of entries that the table holds at most.
	Limit() int
}

// tables are the maps that user space fills. The others belong to the programs.
type tables struct {
	frontends  table[weftFrontendKey, weftFrontend]
	slots      table[weftSlotKey, weftEndpoint]
	members    table[weftMemberKey, uint32]
	peers      table[weftAddress, uint32]
	inspected  table[weftEndpoint, uint32]
	pods       table[uint64, uint32]
	namespaces table[uint64, weftPath]
	own        table[weftOwnKey, uint32]
	selves     table[weftSelfKey, weftAddress]
	probes     table[weftEndpoint, weftProbe]
	requests   table[weftProbeRequest, uint32]
	cgroups    table[uint64, uint32]
	nodes      table[weftAddress, uint32]
	otherNodes table[weftAddress, uint32]
}

// kernelTables are the real ones; maps are found by their names in bpf/maps.h.
func kernelTables(m map[string]*ebpf.Map) tables {
	return tables{
		frontends:  kernelTable[weftFrontendKey, weftFrontend]{m[weftMapFrontends]},
		slots:      kernelTable[weftSlotKey, weftEndpoint]{m[weftMapSlots]},
		members:    kernelTable[weftMemberKey, uint32]{m[weftMapMembers]},
		peers:      kernelTable[weftAddress, uint32]{m[weftMapPeers]},
		inspected:  kernelTable[weftEndpoint, uint32]{m[weftMapInspectedPorts]},
		pods:       kernelTable[uint64, uint32]{m[weftMapPods]},
		namespaces: kernelTable[uint64, weftPath]{m[weftMapNamespaces]},
		own:        kernelTable[weftOwnKey, uint32]{m[weftMapOwn]},
		selves:     kernelTable[weftSelfKey, weftAddress]{m[weftMapSelves]},
		probes:     kernelTable[weftEndpoint, weftProbe]{m[weftMapProbes]},
		requests:   kernelTable[weftProbeRequest, uint32]{m[weftMapProbeRequests]},
		cgroups:    kernelTable[uint64, uint32]{m[weftMapPodCgroups]},
		nodes:      kernelTable[weftAddress, uint32]{m[weftMapNodes]},
		otherNodes: kernelTable[weftAddress, uint32]{m[weftMapOtherNodes]},
	}
}

type kernelTable[K, V comparable] struct{ m *ebpf.Map }

func (t kernelTable[K, V]) Put(k K, v V) error {
	err := t.m.Update(&k, &v, ebpf.UpdateAny)
	if errors.Is(err, unix.E2BIG) {
		return fullError(t.m.MaxEntries())
	}
	return err
}

// fullError says that a map took no entry, and how many it holds.
type fullError uint32

func (e fullError) Error() string { return fmt.Sprintf("the map is full at %d entries", uint32(e)) }

func (t kernelTable[K, V]) Delete(k K) error {
	if err := t.m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

func (t kernelTable[K, V]) Limit() int { return int(t.m.MaxEntries()) }

func (t kernelTable[K, V]) All() (map[K]V, error) {
	out := map[K]V{}
	var k K
	var v V
	it := t.m.Iterate()
	for it.Next(&k, &v) {
		out[k] = v
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read map %s: %w", t.m, err)
	}
	return out, nil
}

// mirror is a table with its content in memory, so that only differences are written.
type mirror[K, V comparable] struct {
	name  string
	table table[K, V]
	have  map[K]V
}

func newMirror[K, V comparable](name string, t table[K, V]) (*mirror[K, V], error) {
	have, err := t.All()
	if err != nil {
		return nil, err
	}
	return &mirror[K, V]{name: name, table: t, have: have}, nil
}

func (m *mirror[K, V]) put(k K, v V) error {
	if old, ok := m.have[k]; ok && old == v {
		return nil
	}
	if err := m.table.Put(k, v); err != nil {
		return fmt.Errorf("map %s: %w", m.name, err)
	}
	m.have[k] = v
	return nil
}

func (m *mirror[K, V]) delete(k K) error {
	if _, ok := m.have[k]; !ok {
		return nil
	}
	if err := m.table.Delete(k); err != nil {
		return fmt.Errorf("map %s: delete: %w", m.name, err)
	}
	delete(m.have, k)
	return nil
}

// prune deletes what is not wanted.
func (m *mirror[K, V]) prune(wanted func(K, V) bool) error {
	var errs []error
	for k, v := range maps.Clone(m.have) {
		if !wanted(k, v) {
			errs = append(errs, m.delete(k))
		}
	}
	return errors.Join(errs...)
}

// claims is a mirror whose keys may be wanted by several owners. The owner whose name comes first has it; when it lets
// go, the next one gets it.
type claims[K, V comparable] struct {
	*mirror[K, V]
	show func(K) string
	// ambiguous is written where owners want different values. If it is nil, the first owner's is.
	ambiguous *V
	by        map[K]map[string]V
	owned     map[string]map[K]V
}

func newClaims[K, V comparable](name string, t table[K, V], show func(K) string) (*claims[K, V], error) {
	m, err := newMirror(name, t)
	if err != nil {
		return nil, err
	}
	return &claims[K, V]{mirror: m, show: show, by: map[K]map[string]V{}, owned: map[string]map[K]V{}}, nil
}

// errConflict marks what no retry will mend.
var errConflict = errors.New("is taken")

// set replaces what an owner wants. Keys that others have give conflicts (errConflict); err are failed writes, which
// another call with the same arguments tries again.
func (c *claims[K, V]) set(owner string, want map[K]V) (conflicts, err error) {
	var errs, taken []error
	owned := c.owned[owner]
	if owned == nil {
		owned = map[K]V{}
		c.owned[owner] = owned
	}
	for k := range owned {
		if _, ok := want[k]; ok {
			continue
		}
		delete(c.by[k], owner)
		if err := c.settle(k); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(owned, k)
	}
	for k, v := range want {
		if c.by[k] == nil {
			c.by[k] = map[string]V{}
		}
		c.by[k][owner], owned[k] = v, v
		errs = append(errs, c.settle(k))
		if w := c.winner(k); w != owner && (c.ambiguous == nil || c.by[k][w] != v) {
			taken = append(taken, fmt.Errorf("%s %w by %s", c.show(k), errConflict, w))
		}
	}
	if len(owned) == 0 {
		delete(c.owned, owner)
	}
	return errors.Join(taken...), errors.Join(errs...)
}

func (c *claims[K, V]) winner(k K) string {
	first := ""
	for o := range c.by[k] {
		if first == "" || o < first {
			first = o
		}
	}
	return first
}

func (c *claims[K, V]) settle(k K) error {
	w := c.winner(k)
	if w == "" {
		delete(c.by, k)
		return c.delete(k)
	}
	value := c.by[k][w]
	for _, v := range c.by[k] {
		if v != value && c.ambiguous != nil {
			return c.put(k, *c.ambiguous)
		}
	}
	return c.put(k, value)
}

func (c *claims[K, V]) wanted(k K, _ V) bool { return len(c.by[k]) > 0 }
