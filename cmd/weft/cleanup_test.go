package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/weft-mesh/weft/internal/testenv"
)

func TestRemoveFolder(t *testing.T) {
	dir := t.TempDir()
	full, empty := filepath.Join(dir, "full"), filepath.Join(dir, "empty")
	for _, d := range []string{filepath.Join(full, "others"), empty} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{full, empty, filepath.Join(dir, "none")} {
		if err := removeFolder(d); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(empty); !os.IsNotExist(err) {
		t.Errorf("an empty folder is left: %v", err)
	}
	if _, err := os.Stat(full); err != nil {
		t.Errorf("what others have is gone: %v", err)
	}
}

// TestRemoveFolderOfAPod: the folder is a mount, and what it is mounted on is read-only.
func TestRemoveFolderOfAPod(t *testing.T) {
	testenv.Root(t)
	dir := t.TempDir()
	mount := filepath.Join(dir, "run")
	for _, m := range []struct {
		at    string
		flags uintptr
	}{{dir, 0}, {mount, 0}, {dir, syscall.MS_REMOUNT | syscall.MS_RDONLY}} {
		if err := os.MkdirAll(m.at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", m.at, "tmpfs", m.flags, ""); err != nil {
			t.Fatal(err)
		}
		if m.flags == 0 {
			t.Cleanup(func() { _ = syscall.Unmount(m.at, syscall.MNT_DETACH) })
		}
	}
	if err := removeFolder(mount); err != nil {
		t.Error(err)
	}
}
