package gateway

import (
	"context"
	"log/slog"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Translator keeps the model up to date with the objects. It is the only writer of the tables that it writes.
type Translator struct {
	objs *kube.Objects
	st   *state.State
	cfg  Config
	log  *slog.Logger
	feed *state.Feed

	// What units of one level tell those of the next.
	attachments *state.Table[*attachment]
	assignments *state.Table[*assignment]
	sharings    *state.Table[*sharing]

	deps    *state.Deps[unit]
	outputs map[unit][]output
	started bool

	pools     allocator
	roots     map[state.TableID][]unitKind
	keyPairs  keyPairs
	hostCache hostCache
}

// New makes a translator from objs to st, which must be in one database. It does nothing until Sync or Run.
func New(objs *kube.Objects, st *state.State, cfg Config, log *slog.Logger) *Translator {
	if objs.DB != st.DB {
		panic("gateway: objects and state are not in one database") // a mistake in the program: changes would be missed
	}
	if cfg.ControllerName == "" {
		cfg.ControllerName = ControllerName
	}
	return &Translator{
		objs: objs, st: st, cfg: cfg, log: log, feed: st.Feed(),
		attachments: newAttachments(st.DB),
		assignments: newAssignments(st.DB),
		sharings:    newSharings(st.DB),
		deps:        state.NewDeps[unit](),
		outputs:     map[unit][]output{},
		pools:       allocator{},
		roots:       rootKinds(objs),
		keyPairs:    keyPairs{},
		hostCache:   hostCache{},
	}
}

// Run translates until the context ends. It waits for Config.Loaded before it writes anything, and marks the state as
// synced after the first pass.
func (t *Translator) Run(ctx context.Context) error {
	defer t.feed.Close()
	if t.cfg.Loaded != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-t.cfg.Loaded:
		}
	}
	t.Sync()
	t.st.MarkSynced()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.feed.Ready():
			t.Sync()
		}
	}
}

// Sync translates all that is pending. It is not safe for concurrent use, neither with itself nor with Run.
func (t *Translator) Sync() {
	dirty := map[unit]struct{}{}
	for {
		keys, snap := t.feed.Take()
		if !t.started {
			t.started = true
			t.allUnits(snap, dirty)
		}
		for k := range keys {
			t.rootUnits(k, dirty)
		}
		for u := range t.deps.Dirty(keys) {
			dirty[u] = struct{}{}
		}
		level, units := nextLevel(dirty)
		if len(units) == 0 {
			return
		}
		t.pass(level, units, snap)
	}
}

// nextLevel takes the units of the lowest level out of dirty.
func nextLevel(dirty map[unit]struct{}) (int, []unit) {
	level := levels
	for u := range dirty {
		level = min(level, u.kind.level())
	}
	var units []unit
	for u := range dirty {
		if u.kind.level() == level {
			units = append(units, u)
			delete(dirty, u)
		}
	}
	return level, units
}

// pass runs units and publishes what changed in one transaction, so that a service never has L7 without its table.
func (t *Translator) pass(level int, units []unit, snap *state.Snapshot) {
	results := make([][]output, len(units))
	for i, u := range units {
		v := &view{Snapshot: snap.Track(), Translator: t}
		outs, alive := u.compute(v)
		results[i] = outs
		if alive {
			t.deps.Set(u, v.Reads())
		} else {
			t.deps.Remove(u)
		}
	}
	w := t.write(level)
	defer w.Abort()
	for i, u := range units {
		t.apply(w, u, results[i])
	}
	w.Commit()
}

func (t *Translator) write(level int) *state.Write {
	st := t.st
	switch level {
	case 0:
		return st.Write(t.assignments)
	case 1:
		return st.Write(t.sharings)
	case 2:
		return st.Write(t.attachments, st.Certificates, st.Statuses)
	}
	return st.Write(st.Workloads, st.Services, st.Endpoints, st.RouteTables, st.Gateways, st.Statuses)
}

// apply writes a unit's outputs and deletes those of its last run that it did not make again.
func (t *Translator) apply(w *state.Write, u unit, outs []output) {
	for _, old := range t.outputs[u] {
		kept := false
		for _, o := range outs {
			kept = kept || o.table == old.table && o.key == old.key
		}
		if !kept {
			old.remove(w)
		}
	}
	for i := range outs {
		outs[i].put(w)
		outs[i].put = nil // the table holds the value now
	}
	if len(outs) == 0 {
		delete(t.outputs, u)
		return
	}
	t.outputs[u] = outs
}

// output is one object that a unit wants in a table.
type output struct {
	table  state.TableID
	key    string
	put    func(*state.Write)
	remove func(*state.Write)
}

func out[T any](t *state.Table[T], key string, v T) output {
	return output{
		table: t.ID(), key: key,
		put:    func(w *state.Write) { t.Put(w, v) },
		remove: func(w *state.Write) { t.Delete(w, key) },
	}
}

// status is an output that also tells the log when something is wrong now that was not before.
func (t *Translator) status(s *model.Status) output {
	o := out(t.st.Statuses, s.Key(), s)
	put := o.put
	o.put = func(w *state.Write) {
		before, _ := t.st.Statuses.Get(w.Snapshot(), s.Key())
		if p := problem(s); p != "" && p != problem(before) {
			t.log.Warn("object has a problem", "object", s.Key(), "problem", p)
		}
		put(w)
	}
	return o
}

// view is what a unit computes from: a tracked snapshot.
type view struct {
	*state.Snapshot
	*Translator
}
