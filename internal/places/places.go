// Package places knows where the pods of a node run: their network namespaces and cgroups. It hears of them from the CNI
// plugin, and finds by itself those that started without it. What it knows it tells the object tables.
package places

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/weft-mesh/weft/internal/kube"
)

// Config of Places.
type Config struct {
	Objects *kube.Objects
	// Place tells the object tables: kube.Cluster.Place.
	Place func(namespace, name, uid string, p kube.Place)
	// Loaded is closed when the tables hold all pods.
	Loaded  <-chan struct{}
	Node    string
	Scanner Scanner
	// File keeps what is known for the next agent. It belongs where a restart of the machine removes it.
	File string
	Log  *slog.Logger
}

// Places are those of a node's pods.
type Places struct {
	cfg     Config
	scanned chan struct{}

	mu     sync.Mutex
	places map[string]*place // by UID
	// gone holds, by UID, the namespace that a DEL was about: processes in it may live a moment longer and be found.
	gone    map[string]inode
	changed bool              // since the file was written
	told    map[string]string // by UID, and "" for all: the last thing that the log was told
}

// place is where a pod runs.
type place struct {
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	UID         string `json:"uid"`
	NetNS       string `json:"netns"` // name in Scanner.NetNSDir
	Device      uint64 `json:"device"`
	Inode       uint64 `json:"inode"` // of the namespace: another may come under its name
	Cgroup      string `json:"cgroup,omitempty"`
	Addresses   string `json:"addresses,omitempty"`
	ContainerID string `json:"containerID,omitempty"` // of the sandbox; "" if the pod was found
	// known is true once there was an object of the pod, so that it is gone when that is.
	known bool
}

func (p *place) inode() inode { return inode{p.Device, p.Inode} }

// New reads what an earlier agent knew and tells it at once, as far as it still holds.
func New(cfg Config) *Places {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	p := &Places{
		cfg: cfg, scanned: make(chan struct{}), places: map[string]*place{}, gone: map[string]inode{}, told: map[string]string{},
	}
	p.load()
	return p
}

func (p *Places) load() {
	text, err := os.ReadFile(p.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var before []*place
	if err == nil {
		err = json.Unmarshal(text, &before)
	}
	if err != nil {
		p.cfg.Log.Warn("where pods ran before is not known; they are looked for", "file", p.cfg.File, "error", err)
		return
	}
	for _, e := range before {
		if e == nil || e.UID == "" || !p.there(e) {
			continue
		}
		e.known = true
		p.places[e.UID] = e
		p.tell(e)
	}
}

// there tells whether a place's namespace is still the one of its name. One that cannot be looked at is.
func (p *Places) there(e *place) bool {
	if !isName(e.NetNS) {
		return false
	}
	ns, err := inodeOf(filepath.Join(p.cfg.Scanner.NetNSDir, e.NetNS))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	return ns == e.inode()
}

func isName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

// tell writes a place to the object tables.
func (p *Places) tell(e *place) {
	p.cfg.Place(e.Namespace, e.Name, e.UID, kube.Place{NetNS: e.NetNS, Cgroup: e.Cgroup, Addresses: e.Addresses})
}

// Sandbox is what the CNI plugin knows of a pod.
type Sandbox struct {
	Namespace, Name, UID, ContainerID string
	NetNS                             string // path
	Addresses                         []netip.Addr
}

// Add takes in a new sandbox. It takes the place of an earlier one of the pod.
func (p *Places) Add(s Sandbox) error {
	name, ns, err := p.find(s.NetNS)
	if err != nil {
		return err
	}
	addrs := make([]string, len(s.Addresses))
	for i, a := range s.Addresses {
		addrs[i] = a.String()
	}
	e := &place{
		Namespace: s.Namespace, Name: s.Name, UID: s.UID, NetNS: name, Device: ns.dev, Inode: ns.ino,
		Addresses: strings.Join(addrs, ","), ContainerID: s.ContainerID,
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.gone, s.UID)
	p.places[s.UID] = e
	p.tell(e)
	p.save()
	return nil
}

// find gives the name of a namespace in NetNSDir. Its path is as the container runtime sees it: on the node.
func (p *Places) find(path string) (string, inode, error) {
	dir := p.cfg.Scanner.NetNSDir
	if d, name := filepath.Split(path); d == "/run/netns/" || d == "/var/run/netns/" || filepath.Clean(d) == filepath.Clean(dir) {
		if ns, err := inodeOf(filepath.Join(dir, name)); err == nil && isName(name) {
			return name, ns, nil
		}
	}
	names, err := p.cfg.Scanner.namespaces()
	if err != nil {
		return "", inode{}, err
	}
	if ns, err := inodeOf(path); err == nil && names[ns] != "" {
		return names[ns], ns, nil
	}
	return "", inode{}, fmt.Errorf("network namespace %s has no name in %s: the container runtime must give it one, and the agent must see it (the folder is mounted with propagation HostToContainer)", path, dir)
}

// Delete forgets a sandbox, if it is the pod's last one: a DEL may come late, after the ADD of the next.
func (p *Places) Delete(uid, containerID, netns string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.places[uid]
	if e == nil || !e.is(containerID, netns) {
		return
	}
	p.gone[uid] = e.inode()
	p.forget(e)
	p.save()
}

// Keep forgets the sandboxes that came by Add and whose containers are not named. One whose pod and namespace are still
// there stays until they go: a list is of one network alone, and a node that gets another one has pods of both.
func (p *Places) Keep(containerIDs []string) {
	keep := map[string]bool{}
	for _, id := range containerIDs {
		keep[id] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.places {
		if e.ContainerID != "" && !keep[e.ContainerID] && (!e.known || !p.there(e)) {
			p.forget(e)
		}
	}
	p.save()
}

// Has tells whether a sandbox is its pod's last one.
func (p *Places) Has(uid, containerID, netns string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.places[uid]
	return e != nil && e.is(containerID, netns)
}

// is tells whether a place is that of a sandbox. One that was found has no container ID, and is known by its namespace.
func (e *place) is(containerID, netns string) bool {
	if e.ContainerID != "" {
		return e.ContainerID == containerID
	}
	return filepath.Base(netns) == e.NetNS
}

func (p *Places) forget(e *place) {
	delete(p.places, e.UID)
	p.changed = true
	p.cfg.Place(e.Namespace, e.Name, e.UID, kube.Place{})
}

// tellLog writes a warning about a pod, or about all of them by "", unless it was the last one about it.
func (p *Places) tellLog(uid, message string, args ...any) {
	text := fmt.Sprint(message, args)
	if p.told[uid] != text {
		p.told[uid] = text
		p.cfg.Log.Warn(message, args...)
	}
}

// save writes the file. A failure costs the next agent a look through the cgroups.
func (p *Places) save() {
	p.changed = false
	all := make([]*place, 0, len(p.places))
	for _, e := range p.places {
		all = append(all, e)
	}
	text, err := json.Marshal(all)
	if err == nil {
		err = os.WriteFile(p.cfg.File+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(p.cfg.File+".new", p.cfg.File)
	}
	if err != nil {
		p.cfg.Log.Warn("where pods run is not kept for the next agent", "error", err)
	}
}
