package agent

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

const (
	// gcPercent is lower than Go's default: an agent's heap is nearly all live tables, and changes make little garbage, so
	// the collector is cheap, and memory that it lets lie would be paid on every node.
	gcPercent = 40
	// leastGarbage is what a small heap may grow by, in bytes, before it is collected. With gcPercent alone, collections are
	// a quarter of what changes cost an agent with few objects.
	leastGarbage = 12 << 20
	// startGCPercent is Go's default. A higher one starts a little faster, but what stays is spread over the memory of what
	// does not, and that memory cannot be given back: with 200 an agent of 5,000 Services held 35 MB more for good.
	startGCPercent = 100
	// quiet is how long no row changes when work is over. Work that takes longer than it from one commit to the next is
	// waited for at the start, and found afterwards by the memory that it left.
	quiet = time.Second
	// spare is the memory, in bytes, beyond what the collector lets the heap grow to, for which a collection is worth its
	// time: it reads the whole heap.
	spare = 16 << 20
	// shrinkEvery is how often an agent in which nothing changed since the last time gives back what it does not use. It is less
	// than the two minutes after which the runtime collects a heap by itself, so that this costs no collection more. The runtime's
	// own leaves 5 MB of pages of the executable behind, and the garbage since then: idle, an agent grew from 37 MB to 53 MB in
	// four minutes. An agent in which something changed collects as it allocates, and is collected for more than spare only.
	shrinkEvery = 110 * time.Second
)

// returnMemory keeps the heap small, and gives memory back after work that took much of it: first when everything was read,
// translated and programmed once, and later when the tables are quiet after a burst of changes, or at intervals. Until it has
// started the heap may grow: each collection reads all of it.
func (a *Agent) returnMemory(ctx context.Context, every time.Duration) error {
	setGCPercent(startGCPercent)
	feed := a.st.Feed()
	defer feed.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-a.st.Synced():
	}
	started, changed := false, false
	var looked time.Time // when the interval of every began
	for {
		keys, _ := feed.Take()
		changed = changed || a.isWork(keys)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(quiet):
		}
		select {
		case <-feed.Ready():
			continue
		default:
		}
		switch over := time.Since(looked) >= every; {
		case started:
			a.giveBack(whatToGiveBack(over, changed, spareMemory()))
			if over {
				looked, changed = time.Now(), false
			}
		case programmedOnce(a.st):
			a.giveBack(heapAndPages)
			started, looked, changed = true, time.Now(), false
		}
		wait := every
		if started {
			wait -= time.Since(looked)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-feed.Ready():
		case <-time.After(wait):
		}
	}
}

// isWork reports whether there is a key of a row that is more than a count: those of traffic change in an idle agent too.
func (a *Agent) isWork(keys map[state.Key]struct{}) bool {
	for k := range keys {
		if k.Table != a.st.MapUsage.ID() && k.Table != a.st.Lost.ID() {
			return true
		}
	}
	return false
}

// unused is memory that an agent can give back.
type unused int

const (
	noMemory unused = iota
	heap
	heapAndPages // of the executable too
)

// whatToGiveBack returns what an agent gives back at a quiet moment: whether the interval is over, whether something changed in it, and
// how much memory is spare, in bytes.
func whatToGiveBack(over, changed bool, bytes int64) unused {
	switch {
	case over && (!changed || bytes > spare):
		return heapAndPages
	case bytes > spare:
		return heap
	}
	return noMemory
}

// programmedOnce reports whether the kernel holds everything that was read at the start.
func programmedOnce(st *state.State) bool {
	snap := st.Snapshot()
	_, waits := st.Programmed.Get(snap, model.Start.Key())
	return !waits && st.Programmed.Len(snap) > 0
}

// setGCPercent leaves the choice of who set GOGC.
func setGCPercent(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// giveBack gives back what the heap does not need, and the pages of the executable: half of those that come back after the start
// serve work that comes once, and the kernel maps their neighbours with them.
func (a *Agent) giveBack(what unused) {
	if what != noMemory {
		debug.FreeOSMemory()
	}
	setGCPercent(percentFor(liveHeap()))
	if what != heapAndPages {
		return
	}
	if err := letGoOfBinary(); err != nil {
		a.cfg.Log.Warn("the pages of the executable stay in memory", "error", err)
	}
}

// percentFor returns how much a heap with so many live bytes may grow before it is collected, in percent.
func percentFor(live uint64) int {
	return max(gcPercent, int(leastGarbage*100/max(live, 4<<20)))
}

// liveHeap returns what the last collection left, in bytes.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// spareMemory is the heap's resident memory, in bytes, beyond the size at which it is collected next.
func spareMemory() int64 {
	s := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/goal:bytes"},
	}
	metrics.Read(s)
	return int64(s[0].Value.Uint64()+s[1].Value.Uint64()+s[2].Value.Uint64()) - int64(s[3].Value.Uint64())
}
