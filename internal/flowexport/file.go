package flowexport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
)

// File is a file that is rotated: the last one is Path, the one before Path.1, and so on.
type File struct {
	Path string
	// Size is the most bytes of a file, but for one with a single line that is longer. Count is how many files there are at
	// most, with the one that is written.
	Size  int64
	Count int
}

// rotated writes lines to a File.
type rotated struct {
	File
	node string
	now  *os.File // nil if it must be opened
	size int64    // of now
}

// NewFile makes an Exporter to a file that root alone may read. Its folder must be there. A file that cannot be written is
// tried again.
func NewFile(cfg Config, f File) *Exporter {
	return newExporter(cfg, model.ExportFile, f.Path, &rotated{File: f, node: cfg.Node})
}

func (r *rotated) send(_ context.Context, items []item) (taken, lost int, err error) {
	if err := r.open(); err != nil {
		return 0, 0, err
	}
	var text bytes.Buffer
	pending := 0 // lines in text
	flush := func() error {
		if err := r.write(text.Bytes()); err != nil {
			return err
		}
		taken += pending
		pending = 0
		text.Reset()
		return nil
	}
	for _, i := range items {
		before := text.Len()
		if err := line(&text, r.node, i); err != nil {
			return len(items), len(items) - taken, err
		}
		if r.size+int64(text.Len()) > r.Size && r.size+int64(before) > 0 {
			last := bytes.Clone(text.Bytes()[before:])
			text.Truncate(before)
			if err := errors.Join(flush(), r.rotate()); err != nil {
				return taken, 0, err
			}
			text.Write(last)
		}
		pending++
	}
	err = flush()
	return taken, 0, err
}

// open opens the file, unless it is open and still the one with the name.
func (r *rotated) open() error {
	if r.now != nil {
		opened, err1 := r.now.Stat()
		named, err2 := os.Lstat(r.Path)
		if err1 == nil && err2 == nil && os.SameFile(opened, named) {
			return nil
		}
		r.close()
	}
	// Without O_NONBLOCK a pipe of this name blocks; a link is not followed, for the folder may be another's.
	f, err := os.OpenFile(r.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("%w; check its folder", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", r.Path)
	}
	if err == nil {
		err = r.forget()
	}
	if err != nil {
		f.Close()
		return err
	}
	r.now, r.size = f, info.Size()
	return nil
}

// forget removes files of a time when there were more.
func (r *rotated) forget() error {
	for n := max(r.Count, 1); ; n++ {
		if err := os.Remove(r.old(n)); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// write appends lines. If it fails, none of them is in the file.
func (r *rotated) write(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	if _, err := r.now.Write(text); err != nil {
		err = errors.Join(err, r.now.Truncate(r.size))
		r.close()
		return err
	}
	r.size += int64(len(text))
	return nil
}

// rotate renames the files and begins a new one.
func (r *rotated) rotate() error {
	r.close()
	for n := r.Count - 1; n > 0; n-- {
		if err := os.Rename(r.old(n-1), r.old(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if r.Count <= 1 {
		if err := os.Remove(r.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return r.open()
}

// old is the name of the nth file before the one that is written.
func (r *rotated) old(n int) string {
	if n == 0 {
		return r.Path
	}
	return fmt.Sprintf("%s.%d", r.Path, n)
}

func (r *rotated) close() {
	if r.now != nil {
		r.now.Close()
		r.now = nil
	}
}
