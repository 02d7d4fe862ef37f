package agent

import (
	"context"
	"os"
	"runtime/debug"
)

// gcPercent is lower than Go's default: an agent's heap is nearly all live tables, and changes make little garbage, so
// the collector is cheap, and memory that it lets lie would be paid on every node.
const gcPercent = 40

// returnMemory keeps the heap small from the start, and gives back what reading and translating everything for the first time took.
func (a *Agent) returnMemory(ctx context.Context) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	select {
	case <-ctx.Done():
	case <-a.st.Synced():
		debug.FreeOSMemory()
	}
	return nil
}
