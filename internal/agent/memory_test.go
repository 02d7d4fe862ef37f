package agent

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

func TestPercentFor(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{
		{0, 300}, {10 << 20, 120}, {30 << 20, 40}, {200 << 20, 40},
	} {
		if got := percentFor(c.live); got != c.want {
			t.Errorf("a heap of %d bytes may grow by %d%%, want %d%%", c.live, got, c.want)
		}
	}
}

// An agent in which nothing changes gives its garbage back, before the runtime collects by itself after two minutes.
func TestIdleAgentGivesMemoryBack(t *testing.T) {
	t.Setenv("GOGC", "") // the agent leaves the collector alone where it is set
	percent := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(percent) })
	a := &Agent{st: state.New(state.NewDB()), cfg: Config{Log: slog.Default()}}
	w := a.st.Write(a.st.Programmed)
	a.st.Programmed.Put(w, &model.Programmed{Subject: model.Subject{Kind: "Service", Name: "a"}})
	w.Commit()
	a.st.MarkSynced()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.returnMemory(ctx, 10*time.Millisecond) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	forced := []metrics.Sample{{Name: "/gc/cycles/forced:gc-cycles"}}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain until %s", what)
			}
		}
	}
	metrics.Read(forced)
	before := forced[0].Value.Uint64()
	until("the agent has started", func() bool { metrics.Read(forced); return forced[0].Value.Uint64() > before })
	const garbage = 8 << 20
	full := residentWith(garbage)
	until("garbage was given back", func() bool { return residentHeap() < full-garbage/2 })
}

// residentWith returns the heap's resident bytes while it has so many more, which are garbage afterwards.
func residentWith(bytes int) int64 {
	waste := make([]byte, bytes)
	for i := range waste {
		waste[i] = 1
	}
	full := residentHeap()
	runtime.KeepAlive(waste)
	return full
}

// residentHeap returns the heap's resident bytes.
func residentHeap() (sum int64) {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(s)
	for _, x := range s {
		sum += int64(x.Value.Uint64())
	}
	return sum
}
