package agent

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/weft-mesh/weft/internal/cni"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// modesPause gathers changes: a file a change is too many when a cluster's objects come.
	modesPause = 100 * time.Millisecond
	// modesRetry is the pause after a file that could not be written.
	modesRetry = 5 * time.Second
)

// modes keeps the file of the namespaces' modes, by which the CNI plugin decides while there is no agent.
type modes struct {
	objs   *kube.Objects
	loaded <-chan struct{}
	file   string
	log    *slog.Logger
	known  chan struct{} // closed when the file is there, or would be if it could be written

	mu  sync.Mutex
	now cni.Modes
}

func newModes(objs *kube.Objects, loaded <-chan struct{}, file string, log *slog.Logger) *modes {
	m := &modes{objs: objs, loaded: loaded, file: file, log: log, known: make(chan struct{}), now: cni.Modes{}}
	if before, err := cni.ReadModes(file); err == nil && before != nil {
		m.now = before
		close(m.known)
	}
	return m
}

// strict reports whether pods of a namespace may be strict. All may of one that is not known.
func (m *modes) strict(namespace string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	mode, ok := m.now[namespace]
	return !ok || mode.Strict()
}

// run keeps the file until ctx ends.
func (m *modes) run(ctx context.Context) error {
	feed := m.objs.DB.Feed(m.objs.Namespaces, m.objs.Pods)
	defer feed.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-m.loaded:
	}
	_, snap := feed.Take()
	failed := !m.write(m.all(snap))
	for {
		var retry <-chan time.Time
		if failed {
			retry = time.After(modesRetry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-feed.Ready():
		case <-retry:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(modesPause):
		}
		keys, snap := feed.Take()
		if next := m.changed(keys, snap); failed || !maps.Equal(next, m.now) {
			failed = !m.write(next)
		}
	}
}

// all computes the modes of all namespaces.
func (m *modes) all(snap *state.Snapshot) cni.Modes {
	keys := map[state.Key]struct{}{}
	for name := range m.now {
		keys[state.Key{Table: m.objs.Namespaces.ID(), Value: model.Key("", name)}] = struct{}{}
	}
	for ns := range m.objs.Namespaces.All(snap) {
		keys[state.Key{Table: m.objs.Namespaces.ID(), Value: kube.Key(ns)}] = struct{}{}
	}
	for p := range m.objs.Pods.All(snap) {
		keys[state.Key{Table: m.objs.Pods.ID(), Value: kube.Key(p)}] = struct{}{}
	}
	return m.changed(keys, snap)
}

// changed gives the modes after a change of objects.
func (m *modes) changed(keys map[state.Key]struct{}, snap *state.Snapshot) cni.Modes {
	next := maps.Clone(m.now)
	for k := range keys {
		if k.Index == "" && k.Table == m.objs.Namespaces.ID() {
			m.namespace(next, k.Value, snap)
		}
	}
	for k := range keys {
		if k.Index == "" && k.Table == m.objs.Pods.ID() {
			m.pod(next, k.Value, snap)
		}
	}
	return next
}

func (m *modes) namespace(next cni.Modes, key string, snap *state.Snapshot) {
	_, name := model.SplitKey(key)
	ns, ok := m.objs.Namespaces.Get(snap, key)
	if !ok {
		delete(next, name)
		return
	}
	label := kube.NamespaceMode(ns).Mode
	mode, known := next[name]
	mode.Label = label == model.MTLSStrict
	next[name] = mode
	if known {
		return
	}
	for p := range m.objs.Pods.By(snap, kube.ByNamespace, name) { // that were told of before their namespace
		m.pod(next, kube.Key(p), snap)
	}
}

func (m *modes) pod(next cni.Modes, key string, snap *state.Snapshot) {
	p, ok := m.objs.Pods.Get(snap, key)
	if !ok || p.Spec.HostNetwork {
		return
	}
	if !kube.PodLabelledStrict(p) {
		return
	}
	if mode, known := next[p.Namespace]; known {
		mode.Pod = true
		next[p.Namespace] = mode
	}
}

// write reports whether it could.
func (m *modes) write(next cni.Modes) bool {
	m.mu.Lock()
	m.now = next
	m.mu.Unlock()
	select {
	case <-m.known:
	default:
		close(m.known)
	}
	if err := cni.WriteModes(m.file, next); err != nil {
		m.log.Error("pods of new namespaces cannot start while the agent is down", "error", err)
		return false
	}
	return true
}
