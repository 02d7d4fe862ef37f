package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Detach removes everything that Open and Run left: hooks, maps, the pods' rules and routes and, if it is empty, the proxy's
// cgroup. Live connections that were redirected lose nothing: Envoy carries
// them to their end.
func Detach(cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	var errs []error
	if ok, err := isBPFFS(cfg.PinDir); err == nil && ok {
		if err := detachPins(cfg); errors.Is(err, ErrInUse) {
			return err
		} else if err != nil {
			errs = append(errs, err)
		}
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := os.Remove(cfg.proxyPath()); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
		errs = append(errs, fmt.Errorf("cgroup of the proxy: %w", err))
	}
	return errors.Join(errs...)
}

func detachPins(cfg Config) error {
	lock, err := lockPins(cfg.PinDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	errs := []error{leaveNamespaces(cfg)}
	for _, dir := range []string{podDir, linkDir} {
		pins, _ := filepath.Glob(filepath.Join(cfg.PinDir, dir, "*"))
		for _, p := range pins {
			errs = append(errs, unpinLink(p))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err // the maps tell a second try what is left
	}
	for _, dir := range []string{mapDir, linkDir, podDir} {
		if err := os.RemoveAll(filepath.Join(cfg.PinDir, dir)); err != nil {
			errs = append(errs, fmt.Errorf("remove pins: %w", err))
		}
	}
	_ = lock.Close() // it would keep the file system busy
	var dir, parent unix.Stat_t
	if unix.Stat(cfg.PinDir, &dir) == nil && unix.Stat(filepath.Dir(cfg.PinDir), &parent) == nil && dir.Dev != parent.Dev {
		if err := unix.Unmount(cfg.PinDir, 0); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", cfg.PinDir, err))
		}
	}
	if err := os.Remove(cfg.PinDir); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("remove the directory of pins: %w", err))
	}
	return errors.Join(errs...)
}

// leaveNamespaces undoes what was done in the namespaces of local workloads, whichever version did it.
func leaveNamespaces(cfg Config) error {
	pins, _ := filepath.Glob(filepath.Join(cfg.PinDir, mapDir, weftMapNamespaces+"-*"))
	space := &kernelNamespaces{dir: filepath.Join(cfg.PinDir, podDir)}
	var errs []error
	for _, pin := range pins {
		m, err := ebpf.LoadPinnedMap(pin, nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("open %s: %w", pin, err))
			continue
		}
		errs = append(errs, leaveAll(space, m))
	}
	return errors.Join(errs...)
}

func leaveAll(space *kernelNamespaces, m *ebpf.Map) error {
	defer func() { _ = m.Close() }()
	if int(m.ValueSize()) != len(weftPath{}.Name) || !strings.HasPrefix(m.String(), "Hash(") {
		return nil // of a version that is not known here
	}
	all, err := kernelTable[uint64, weftPath]{m}.All()
	if err != nil {
		return err
	}
	var errs []error
	for cookie, path := range all {
		if err := space.Left(cookie, decodePath(path)); err != nil {
			errs = append(errs, fmt.Errorf("network namespace %s: %w", decodePath(path), err))
		}
	}
	return errors.Join(errs...)
}
