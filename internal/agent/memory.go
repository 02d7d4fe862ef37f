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
	// shrinkEvery is how often an agent gives back what it does not use, at a quiet moment. It is less than the two minutes after
	// which the runtime collects an idle heap by itself, so an idle agent is collected no more often. The runtime's own collection
	// leaves 5 MB of pages of the executable behind, and the garbage since then: idle, an agent grew from 37 MB to 53 MB in four
	// minutes. An agent that works is collected once more in this time, which is little beside what it collects anyway.
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
	started := false
	var shrunk time.Time
	for {
		feed.Take()
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
		switch {
		case started && time.Since(shrunk) < every:
			if spareMemory() > spare {
				debug.FreeOSMemory()
			}
			setGCPercent(percentFor(liveHeap()))
		case started || programmedOnce(a.st):
			started, shrunk = true, time.Now()
			a.shrink()
		}
		wait := every
		if started {
			wait -= time.Since(shrunk)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-feed.Ready():
		case <-time.After(wait):
		}
	}
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

// shrink gives back what the heap does not need and the pages of the executable: half of those that come back after the start
// serve work that comes once, and the kernel maps their neighbours with them.
func (a *Agent) shrink() {
	debug.FreeOSMemory()
	setGCPercent(percentFor(liveHeap()))
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
