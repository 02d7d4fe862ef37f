package gateway

import (
	"context"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Translator keeps the model up to date with the objects. It is the only writer of the tables that it writes.
type Translator struct {
	*tables
	cfg  Config
	log  *slog.Logger
	feed *state.Feed

	kinds   map[state.TableID][]*unitKind
	deps    *state.Deps[unit]
	outputs map[unit][]output
	memo    *memo
	started bool
	// retained is what Config.Retained returned, during the first Sync.
	retained Retained
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
		tables: newTables(objs, st), cfg: cfg, log: log, feed: st.Feed(),
		kinds: kindsByTable(objs), deps: state.NewDeps[unit](), outputs: map[unit][]output{}, memo: newMemo(),
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
	if !t.started && t.cfg.Retained != nil {
		t.retained = t.cfg.Retained()
		defer func() { t.retained = Retained{} }()
	}
	dirty := map[unit]struct{}{}
	for {
		keys, snap := t.feed.Take()
		if !t.started {
			t.started = true
			allUnits(t.objs, snap, dirty)
		}
		for k := range keys {
			if k.Index != "" {
				continue
			}
			for _, kind := range t.kinds[k.Table] {
				dirty[unit{kind, k.Value}] = struct{}{}
			}
		}
		for u := range t.deps.Dirty(keys) {
			dirty[u] = struct{}{}
		}
		units := takeStage(dirty)
		if len(units) == 0 {
			return
		}
		t.pass(units, snap)
	}
}

// takeStage takes the units of the earliest stage out of dirty.
func takeStage(dirty map[unit]struct{}) []unit {
	earliest := stages
	for u := range dirty {
		earliest = min(earliest, u.kind.stage)
	}
	var units []unit
	for u := range dirty {
		if u.kind.stage == earliest {
			units = append(units, u)
			delete(dirty, u)
		}
	}
	return units
}

// pass runs units and publishes what changed in one transaction, so that a service never has L7 without its table.
func (t *Translator) pass(units []unit, snap *state.Snapshot) {
	results := make([][]output, len(units))
	for r := range t.compute(units, snap) {
		results[r.index] = r.outs
		if r.alive {
			t.deps.Set(units[r.index], r.reads)
		} else {
			t.deps.Remove(units[r.index])
		}
	}
	tables := t.affected(units, results)
	if len(tables) == 0 {
		return
	}
	w := t.st.Write(tables...)
	defer w.Abort()
	for i, u := range units {
		t.apply(w, u, results[i])
	}
	w.Commit()
}

// affected lists the tables that hold outputs of units, or are to hold them.
func (t *Translator) affected(units []unit, results [][]output) []state.AnyTable {
	ids := map[state.TableID]struct{}{}
	for i, u := range units {
		for _, outs := range [][]output{t.outputs[u], results[i]} {
			for _, o := range outs {
				ids[o.table] = struct{}{}
			}
		}
	}
	return slices.DeleteFunc(t.written(), func(table state.AnyTable) bool {
		_, affected := ids[table.ID()]
		return !affected
	})
}

// computed is what a unit came to.
type computed struct {
	index int // of the unit
	outs  []output
	alive bool
	reads map[state.Key]struct{}
}

// fewUnits are computed faster by one goroutine.
const fewUnits = 64

// compute runs units on all processors, and yields the results in any order. Units of one stage do not depend on each
// other.
func (t *Translator) compute(units []unit, snap *state.Snapshot) iter.Seq[computed] {
	run := func(i int) computed {
		v := &view{Snapshot: snap.Track(), tables: t.tables, cfg: &t.cfg, last: snap, retained: t.retained, memo: t.memo}
		outs, alive := units[i].kind.compute(v, units[i].key)
		return computed{i, outs, alive, v.Reads()}
	}
	return func(yield func(computed) bool) {
		if len(units) <= fewUnits {
			for i := range units {
				if !yield(run(i)) {
					return
				}
			}
			return
		}
		var next atomic.Int64
		results, done := make(chan computed, fewUnits), make(chan struct{})
		defer close(done)
		var wg sync.WaitGroup
		for range runtime.GOMAXPROCS(0) {
			wg.Go(func() {
				for i := int(next.Add(1)) - 1; i < len(units); i = int(next.Add(1)) - 1 {
					select {
					case results <- run(i):
					case <-done:
						return
					}
				}
			})
		}
		go func() { wg.Wait(); close(results) }()
		for r := range results {
			if !yield(r) {
				return
			}
		}
	}
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
		if s, ok := outs[i].value.(*model.Status); ok {
			t.report(w, s)
		}
		outs[i].put(w)
		outs[i].put, outs[i].value = nil, nil // the table holds the value now
	}
	if len(outs) == 0 {
		delete(t.outputs, u)
		return
	}
	t.outputs[u] = outs
}

// report logs a problem that an object did not have before.
func (t *Translator) report(w *state.Write, s *model.Status) {
	before, _ := t.st.Statuses.Get(w.Snapshot(), s.Key())
	if p := problem(s); p != "" && p != problem(before) {
		t.log.Warn("object has a problem", "object", s.Key(), "problem", p)
	}
}
