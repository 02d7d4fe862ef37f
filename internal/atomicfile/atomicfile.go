// Package atomicfile replaces files in one step: whoever reads one sees its old content or all of the new.
//
// The new content is written to a file beside it, whose name begins with ".new-" and which is renamed. If the process is
// killed before that, this file is left.
package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Write replaces a file. If the machine crashes soon after, the old content, the new one or neither may be there: use it
// for what can be made again.
func Write(path string, data []byte, mode os.FileMode) error {
	return replace(path, mode, false, writeAll(data))
}

// WriteDurable replaces a file. When it returns, a crash of the machine does not lose the new content; before, the old
// content stays.
func WriteDurable(path string, data []byte, mode os.FileMode) error {
	return replace(path, mode, true, writeAll(data))
}

// Fill replaces a file by what fill writes, as WriteDurable does. If fill fails, the file stays as it is.
func Fill(path string, mode os.FileMode, fill func(io.Writer) error) error {
	return replace(path, mode, true, fill)
}

func writeAll(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

func replace(path string, mode os.FileMode, durable bool, fill func(io.Writer) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	if err = fill(f); err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if durable {
		return syncDir(dir)
	}
	return nil
}

// syncDir writes a directory's entries to the disk: a rename is lost with them.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
