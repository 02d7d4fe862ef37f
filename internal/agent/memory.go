package agent

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

const (
	// gcPercent is lower than Go's default: an agent's heap is nearly all live tables, and changes make little garbage, so
	// the collector is cheap, and memory that it lets lie would be paid on every node.
	gcPercent = 40
	// settled is how long after the first translation the memory that it took is given back. Collecting at once would take
	// the processors from answering those that wait for this agent.
	settled = 2 * time.Second
)

// returnMemory keeps the heap small, and gives back what reading and translating everything for the first time took. Until
// then Go's default holds: the heap grows, and each collection reads all of it.
func (a *Agent) returnMemory(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.st.Synced():
	}
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(settled):
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	debug.FreeOSMemory()
	if err := letGoOfBinary(); err != nil {
		a.cfg.Log.Warn("the pages of the executable stay in memory", "error", err)
	}
	return nil
}
