package placement

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// ManifestsConfig is what NewManifests needs.
type ManifestsConfig struct {
	Objects  *kube.Objects
	State    *state.State
	NetNSDir string // "" is /run/netns
	// Loaded is closed when all manifests have been read.
	Loaded <-chan struct{}
	Log    *slog.Logger // nil is slog.Default
}

// Manifests writes the placements that the annotations of a folder's pods name. A placement whose namespace is not there
// has no device and no inode.
type Manifests struct {
	cfg    ManifestsConfig
	feed   *state.Feed
	placed chan struct{}
	rows   map[string]string // by the key of a Pod: the key of its row
}

// NewManifests makes a writer. Nothing is written yet.
func NewManifests(cfg ManifestsConfig) *Manifests {
	cfg.NetNSDir = cmp.Or(cfg.NetNSDir, defaultNetNSDir)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Manifests{cfg: cfg, feed: cfg.State.Feed(cfg.Objects.Pods), placed: make(chan struct{}), rows: map[string]string{}}
}

// Placed is closed when the placements of all pods that there were at the start are in the table.
func (m *Manifests) Placed() <-chan struct{} { return m.placed }

// Run follows the pods and their namespaces until ctx ends.
func (m *Manifests) Run(ctx context.Context) error {
	defer m.feed.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-m.cfg.Loaded:
	}
	moved := watchMounts(ctx, m.cfg.Log)
	m.Sync()
	close(m.placed)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.feed.Ready():
			m.follow()
		case <-moved:
			m.Sync()
		}
	}
}

// Sync brings all placements in line with the pods and namespaces that there are now.
func (m *Manifests) Sync() {
	_, snap := m.feed.Take()
	pods := make(map[string]struct{}, len(m.rows))
	for p := range m.cfg.Objects.Pods.All(snap) {
		pods[kube.Key(p)] = struct{}{}
	}
	for key := range m.rows {
		pods[key] = struct{}{}
	}
	m.update(snap, pods)
}

// follow updates the placements of the pods that changed.
func (m *Manifests) follow() {
	keys, snap := m.feed.Take()
	pods := map[string]struct{}{}
	for k := range keys {
		if key, ok := m.cfg.Objects.Pods.Row(k); ok {
			pods[key] = struct{}{}
		}
	}
	m.update(snap, pods)
}

func (m *Manifests) update(snap *state.Snapshot, pods map[string]struct{}) {
	rows := make(map[string]*model.Placement, len(pods))
	for key := range pods {
		if pod, ok := m.cfg.Objects.Pods.Get(snap, key); ok {
			rows[key] = m.row(kube.PlacementOf(pod, m.cfg.NetNSDir))
		}
	}
	table := m.cfg.State.Placements
	w := m.cfg.State.Write(table)
	defer w.Commit()
	for key := range pods {
		row := rows[key]
		if old, had := m.rows[key]; had && (row == nil || row.Key() != old) {
			table.Delete(w, old)
			delete(m.rows, key)
		}
		if row != nil {
			table.Put(w, row)
			m.rows[key] = row.Key()
		}
	}
}

// row adds which namespace it is, if it is there.
func (m *Manifests) row(p *model.Placement) *model.Placement {
	if p == nil {
		return nil
	}
	if ns, err := identify(p.NetNS); err == nil {
		p.Device, p.Inode = ns.dev, ns.ino
	}
	return p
}
