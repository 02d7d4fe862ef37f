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

	"github.com/weft-mesh/weft/internal/atomicfile"
)

// copyBinary puts a copy of the executable self into dir as the plugin, if it is not there, and reports whether it did.
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
	// A runtime executes the old plugin or the new one.
	err = atomicfile.Fill(to, 0o755, func(w io.Writer) error {
		_, err := io.Copy(w, from)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("copy %s to %s: %w", self, to, err)
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
