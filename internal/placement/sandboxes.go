package placement

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/atomicfile"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Config is what NewSandboxes needs.
type Config struct {
	Objects *kube.Objects
	State   *state.State
	// Loaded is closed when the object tables hold all pods.
	Loaded  <-chan struct{}
	Node    string
	Scanner Scanner
	// File keeps the placements for the next agent. It belongs where a restart of the machine removes it.
	File string
	Log  *slog.Logger // nil is slog.Default
}

// Sandboxes writes the placements of a node's pods, one for each UID.
type Sandboxes struct {
	cfg      Config
	searched chan struct{}
	saving   sync.Mutex // held while File is written
	owns     bool       // this agent writes File; guarded by saving

	podCgroupsAt time.Time // when the kubelet's cgroups were searched for; Run's

	mu      sync.Mutex
	rows    map[string]*model.Placement // by UID; what the table holds
	known   map[string]bool             // UIDs that had an object: such a pod is gone when its object is
	deleted map[string]nsID             // by UID, the namespace of a DEL: processes in it may live a moment longer
	warned  map[string]string           // by UID, and "" for all pods: the last warning
}

// NewSandboxes takes over the placements of an earlier agent that still hold.
func NewSandboxes(cfg Config) *Sandboxes {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Sandboxes{
		cfg: cfg, searched: make(chan struct{}), rows: map[string]*model.Placement{}, known: map[string]bool{},
		deleted: map[string]nsID{}, warned: map[string]string{},
	}
	s.load(true)
	return s
}

// Own reads File again and writes it from now on. Before, the agent that runs may still write it.
func (s *Sandboxes) Own() {
	s.load(false)
	s.saving.Lock()
	s.owns = true
	s.saving.Unlock()
	s.save()
}

// load takes over what File holds. known is whether an object of each pod was there.
func (s *Sandboxes) load(known bool) {
	if err := s.read(known); err != nil {
		s.cfg.Log.Warn("the placements of the last agent cannot be read; the node's cgroups are searched for pods",
			"file", s.cfg.File, "error", err)
	}
}

func (s *Sandboxes) read(known bool) error {
	text, err := os.ReadFile(s.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var before []*model.Placement
	if err == nil {
		err = json.Unmarshal(text, &before)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range before {
		if p != nil && p.UID != "" && filepath.Dir(p.NetNS) == filepath.Clean(s.cfg.Scanner.NetNSDir) && current(p) {
			s.known[p.UID] = known || s.known[p.UID]
			s.put(p)
		}
	}
	return nil
}

// save writes File. If it fails, the next agent searches the cgroups.
func (s *Sandboxes) save() {
	s.saving.Lock()
	defer s.saving.Unlock()
	if !s.owns {
		return
	}
	all := []*model.Placement{}
	for p := range s.cfg.State.Placements.All(s.cfg.State.Snapshot()) {
		all = append(all, p)
	}
	text, err := json.Marshal(all)
	if err == nil {
		err = atomicfile.Write(s.cfg.File, text, 0o600)
	}
	if err != nil {
		s.cfg.Log.Warn("failed to keep the placements for the next agent, which will search the node's cgroups", "error", err)
	}
}

// put writes a row. It takes the place of an earlier one of the pod. s.mu is held.
func (s *Sandboxes) put(p *model.Placement) {
	table := s.cfg.State.Placements
	w := s.cfg.State.Write(table)
	defer w.Commit()
	if old := s.rows[p.UID]; old != nil && old.Key() != p.Key() {
		table.Delete(w, old.Key())
	}
	table.Put(w, p)
	s.rows[p.UID] = p
}

// remove deletes a row. s.mu is held.
func (s *Sandboxes) remove(p *model.Placement) {
	delete(s.rows, p.UID)
	delete(s.known, p.UID)
	w := s.cfg.State.Write(s.cfg.State.Placements)
	defer w.Commit()
	s.cfg.State.Placements.Delete(w, p.Key())
}

// Sandbox is what the CNI plugin knows of a pod.
type Sandbox struct {
	Namespace, Name, UID, ContainerID string
	NetNS                             string // path on the node
	Addresses                         []netip.Addr
}

// Add takes in a new sandbox, in place of an earlier one of the pod.
func (s *Sandboxes) Add(b Sandbox) error {
	path, ns, err := s.find(b.NetNS)
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.deleted, b.UID)
	delete(s.known, b.UID)
	s.put(&model.Placement{
		Namespace: b.Namespace, Name: b.Name, UID: b.UID, NetNS: path, Device: ns.dev, Inode: ns.ino,
		Addresses: b.Addresses, ContainerID: b.ContainerID,
	})
	s.mu.Unlock()
	s.save()
	return nil
}

// find returns the path of a namespace in NetNSDir. The path that it is given is as the container runtime sees it.
func (s *Sandboxes) find(path string) (string, nsID, error) {
	dir := s.cfg.Scanner.NetNSDir
	if d, name := filepath.Split(path); d == "/run/netns/" || d == "/var/run/netns/" || filepath.Clean(d) == filepath.Clean(dir) {
		here := filepath.Join(dir, name)
		if ns, err := identify(here); err == nil && isName(name) {
			return here, ns, nil
		}
	}
	names, err := s.cfg.Scanner.namespaces()
	if err != nil {
		return "", nsID{}, err
	}
	if ns, err := identify(path); err == nil && names[ns] != "" {
		return filepath.Join(dir, names[ns]), ns, nil
	}
	return "", nsID{}, fmt.Errorf("network namespace %s has no name in %s: the container runtime must give it one, and the agent must see it (the folder is mounted with propagation HostToContainer)", path, dir)
}

// Delete forgets a sandbox, if it is the pod's last one: a DEL may come late, after the ADD of the next.
func (s *Sandboxes) Delete(uid, containerID, netns string) {
	s.mu.Lock()
	p := s.rows[uid]
	if p == nil || !is(p, containerID, netns) {
		s.mu.Unlock()
		return
	}
	s.deleted[uid] = idOf(p)
	s.remove(p)
	s.mu.Unlock()
	s.save()
}

// Keep forgets the sandboxes that came by Add and whose containers are not named. One whose pod and namespace are still
// there stays until they go: a list is of one network alone, and a node that gets another one has pods of both.
func (s *Sandboxes) Keep(containerIDs []string) {
	keep := map[string]bool{}
	for _, id := range containerIDs {
		keep[id] = true
	}
	here := s.current()
	s.mu.Lock()
	for _, p := range s.rows {
		if p.ContainerID != "" && !keep[p.ContainerID] && (!s.known[p.UID] || !here(p)) {
			s.remove(p)
		}
	}
	s.mu.Unlock()
	s.save()
}

// current looks at the namespaces of all placements. What it returns reports whether a placement's is there; one that
// was made meanwhile is.
func (s *Sandboxes) current() func(*model.Placement) bool {
	gone := map[*model.Placement]bool{}
	for p := range s.cfg.State.Placements.All(s.cfg.State.Snapshot()) {
		if !current(p) {
			gone[p] = true
		}
	}
	return func(p *model.Placement) bool { return !gone[p] }
}

// Has reports whether a sandbox is its pod's last one.
func (s *Sandboxes) Has(uid, containerID, netns string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.rows[uid]
	return p != nil && is(p, containerID, netns)
}

// is reports whether a placement is that of a sandbox. One that was found has no container ID; its namespace tells.
func is(p *model.Placement, containerID, netns string) bool {
	if p.ContainerID != "" {
		return p.ContainerID == containerID
	}
	return filepath.Base(netns) == filepath.Base(p.NetNS)
}

// warn logs a warning about a pod, or about all of them by "", unless it was the last one about it. s.mu is held.
func (s *Sandboxes) warn(uid, message string, args ...any) {
	text := fmt.Sprint(message, args)
	if s.warned[uid] != text {
		s.warned[uid] = text
		s.cfg.Log.Warn(message, args...)
	}
}
