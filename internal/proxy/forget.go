package proxy

import "log/slog"

// Forget removes the shared memory that the Envoys of a run directory left when they were killed. Call it when none of
// them runs any more.
func Forget(runDir string) {
	c := Config{RunDir: runDir, Log: slog.New(slog.DiscardHandler)}
	for _, e := range c.loadRecord().Envoys {
		c.forget(e.BaseID)
	}
}
