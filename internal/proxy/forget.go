package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

// Forget removes the shared memory that the Envoys of a run directory left when they were killed. Call it when none of
// them runs any more.
func Forget(runDir string) {
	c := Config{RunDir: runDir, Log: slog.New(slog.DiscardHandler)}
	for _, e := range c.loadRecord().Envoys {
		c.forget(e.BaseID)
	}
}

// End drains and ends the Envoys that a supervisor left serving, and removes what they and it left. It fails where a
// supervisor runs.
func End(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	lock, err := cfg.lock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no run directory, so none ever ran
	}
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	defer lock.Close()
	s := &supervisor{cfg: cfg, admin: newAdmin(cfg.path(AdminSocket)), owner: true}
	if s.cgroup, err = prepareCgroup(cfg.CgroupRoot, cfg.Cgroup); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	s.adopt(cfg.loadRecord())
	s.adoptTunnels()
	err = s.stop(ctx)
	s.endStrays()
	if err != nil {
		return err
	}
	return cfg.removeFiles()
}

// removeFiles removes what is left in the run directory when no Envoy and no supervisor runs, the lock last.
func (c Config) removeFiles() error {
	left, _ := filepath.Glob(c.path("envoy") + "_*") // Envoy's own sockets; the pattern is well formed
	for _, name := range []string{bootstrapFile, recordFile, tunnelFile, AdminSocket, ControlSocket, lockFile} {
		left = append(left, c.path(name))
	}
	var errs []error
	for _, f := range left {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("proxy: %w", err))
		}
	}
	return errors.Join(errs...)
}
