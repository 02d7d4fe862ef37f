package datapath

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Offline is the datapath without its hooks: it fills maps that no program reads, to show what a node would write to the
// kernel. It touches no traffic, and needs no privileges for maps in memory.
type Offline struct {
	rec    *reconciler
	tables tables
	maps   map[string]*ebpf.Map
}

// NewOffline fills maps in memory, or, with kernel, real ones (needs CAP_BPF). Close it when done.
func NewOffline(st *state.State, kernel bool, log *slog.Logger) (*Offline, error) {
	o := &Offline{tables: memoryTables(), maps: map[string]*ebpf.Map{}}
	if kernel {
		if err := o.kernelMaps(); err != nil {
			return nil, errors.Join(err, o.Close())
		}
	}
	rec, err := newReconciler(reconcilerConfig{log: log, st: st, tables: o.tables, namespaces: offlineSpace{}})
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	o.rec = rec
	return o, nil
}

func (o *Offline) kernelMaps() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("lift the limit of locked memory: %w", err)
	}
	spec, err := loadSpec(0)
	if err != nil {
		return err
	}
	for name, ms := range spec.Maps {
		if name == rodata {
			continue
		}
		if o.maps[name], err = ebpf.NewMap(ms); err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
	}
	o.tables = kernelTables(o.maps)
	return nil
}

// memoryTables returns all tables in memory.
func memoryTables() tables {
	return tables{
		frontends: memoryTable[weftFrontendKey, weftFrontend]{}, slots: memoryTable[weftSlotKey, weftEndpoint]{},
		members: memoryTable[weftMemberKey, uint32]{}, peers: memoryTable[weftAddress, uint32]{}, pods: memoryTable[uint64, uint32]{},
		inspected:  memoryTable[weftEndpoint, uint32]{},
		namespaces: memoryTable[uint64, weftPath]{}, own: memoryTable[weftOwnKey, uint32]{},
		selves: memoryTable[weftSelfKey, weftAddress]{}, probes: memoryTable[weftEndpoint, weftProbe]{}, requests: memoryTable[weftProbeRequest, uint32]{},
		cgroups: memoryTable[uint64, uint32]{}, nodes: memoryTable[weftAddress, uint32]{}, otherNodes: memoryTable[weftAddress, uint32]{},
	}
}

// memoryTable is a table without a limit. It is not safe for concurrent use.
type memoryTable[K, V comparable] map[K]V

func (t memoryTable[K, V]) Put(k K, v V) error {
	t[k] = v
	return nil
}

func (t memoryTable[K, V]) Delete(k K) error {
	delete(t, k)
	return nil
}

func (t memoryTable[K, V]) All() (map[K]V, error) { return maps.Clone(t), nil }

func (t memoryTable[K, V]) Limit() int { return 0 }

// Sync makes the maps equal to the tables. The error names each object that could not be written.
func (o *Offline) Sync() error {
	snap := o.rec.st.Snapshot()
	todo := o.rec.everything(snap)
	todo[leftovers] = struct{}{}
	o.rec.reconcile(snap, todo)
	var errs []error
	for p := range o.rec.st.Programmed.All(o.rec.st.Snapshot()) {
		if p.Error != "" {
			errs = append(errs, fmt.Errorf("%s %s: %s", p.Kind, p.Name, p.Error))
		}
	}
	return errors.Join(errs...)
}

// Close frees the maps.
func (o *Offline) Close() error {
	closeMaps(o.maps)
	return nil
}

// Entries reads the maps back and gives them as text, a line an entry, sorted: frontends with what they pick from,
// peers with an identity, and local pods by the names of their workloads.
func (o *Offline) Entries() (string, error) {
	frontends, err1 := o.tables.frontends.All()
	slots, err2 := o.tables.slots.All()
	peers, err3 := o.tables.peers.All()
	pods, err4 := o.tables.pods.All()
	own, err5 := o.tables.own.All()
	probes, err6 := o.tables.probes.All()
	requests, err7 := o.tables.requests.All()
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		return "", err
	}
	var lines []string
	for k, v := range frontends {
		lines = append(lines, frontendLine(k, v, slots))
	}
	for k, flags := range peers {
		lines = append(lines, fmt.Sprintf("peer %s%s", decodeAddr(k), flagWords(flags)))
	}
	for cookie, flags := range pods {
		lines = append(lines, fmt.Sprintf("pod %s%s", o.rec.workloads.owner[cookie], flagWords(flags)))
	}
	for k := range own {
		lines = append(lines, fmt.Sprintf("own %s %s", o.rec.workloads.owner[k.Netns], decodeAddr(k.Addr)))
	}
	for k, v := range probes {
		lines = append(lines, fmt.Sprintf("probe %s %s%s", o.rec.workloads.owner[v.Netns], decode(k), words(v.Kinds, "tcp", "http", "tls", "grpc")))
	}
	for r := range requests {
		lines = append(lines, fmt.Sprintf("request %s %s", decode(r.At), r.line()))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n", nil
}

func frontendLine(k weftFrontendKey, v weftFrontend, slots map[weftSlotKey]weftEndpoint) string {
	line := fmt.Sprintf("frontend %s %s", decode(weftEndpoint{Addr: k.Addr, Port: k.Port}), model.Protocol(k.Proto))
	if k.Pad > 0 {
		line += fmt.Sprintf(" from=%d", k.Pad)
	}
	if v.Flags&frontendCallers != 0 {
		line += " callers"
	}
	if v.Flags&frontendL7 != 0 {
		line += " l7"
	}
	if v.Flags&frontendDetect != 0 {
		line += " detect"
	}
	if v.Flags&frontendSNI != 0 {
		line += " sni"
	}
	if v.Affinity > 0 {
		line += fmt.Sprintf(" affinity=%ds", v.Affinity)
	}
	var backends []string
	for i := range v.Count {
		backends = append(backends, decode(slots[weftSlotKey{Service: v.Service, Slot: i}]).String())
	}
	slices.Sort(backends) // the slot of a backend has no meaning
	return line + " -> " + strings.Join(backends, " ")
}

func flagWords(flags uint32) string {
	line := words(flags, "identity", "strict", "policed", "contested")
	if number := flags >> callerShift; number > 0 {
		line += fmt.Sprintf(" callers=%d", number)
	}
	return line
}

// words lists the names of the bits that are set, from the lowest on, each after a space.
func words(flags uint32, names ...string) string {
	out := ""
	for bit, word := range names {
		if flags&(1<<bit) != 0 {
			out += " " + word
		}
	}
	return out
}

// offlineSpace has a namespace for every path, and does nothing in it.
type offlineSpace struct{}

func (offlineSpace) Open(path string) (namespace, error)       { return offlineNamespace(path), nil }
func (offlineSpace) Left(uint64, string) error                 { return nil }
func (offlineSpace) Datagrams([]namespace) ([]datagram, error) { return nil, nil }

type offlineNamespace string

func (n offlineNamespace) Cookie() uint64 {
	h := fnv.New64()
	_, _ = h.Write([]byte(n)) // never fails
	return h.Sum64()
}
func (offlineNamespace) Same() bool                    { return true }
func (offlineNamespace) Joined() bool                  { return false }
func (offlineNamespace) Attach(bool) error             { return nil }
func (offlineNamespace) Check() (repair, bool)         { return repair{}, false }
func (offlineNamespace) Route(bool) error              { return nil }
func (offlineNamespace) Detach(bool) error             { return nil }
func (offlineNamespace) Close() error                  { return nil }
func (offlineNamespace) EndDatagrams([]datagram) error { return nil }
func (offlineNamespace) CloseConnections(func(local, remote netip.AddrPort) bool) (int, error) {
	return 0, nil
}
