package cni

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// copyBinary puts a copy of the executable self into dir as the plugin, if it is not there, and tells whether it did.
func copyBinary(self, dir string) (bool, error) {
	to := filepath.Join(dir, Type)
	same, err := sameContent(self, to)
	if err != nil || same {
		return false, err
	}
	from, err := os.Open(self)
	if err != nil {
		return false, err
	}
	defer from.Close()
	tmp, err := os.CreateTemp(dir, "."+Type+".*.tmp")
	if err != nil {
		return false, err
	}
	_, err = io.Copy(tmp, from)
	// Rename is atomic: a runtime executes the old plugin or the new one.
	if err = errors.Join(err, tmp.Chmod(0o755), tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), to)
	}
	if err != nil {
		return false, errors.Join(fmt.Errorf("copy %s to %s: %w", self, to, err), os.Remove(tmp.Name()))
	}
	return true, nil
}

func sameContent(a, b string) (bool, error) {
	ai, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	bi, err := os.Stat(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || !bi.Mode().IsRegular() || ai.Size() != bi.Size() || bi.Mode().Perm() != 0o755 {
		return false, err
	}
	x, err1 := digest(a)
	y, err2 := digest(b)
	return bytes.Equal(x, y), errors.Join(err1, err2)
}

func digest(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}
