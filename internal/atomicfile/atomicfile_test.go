package atomicfile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

var writers = map[string]func(path string, data []byte, mode os.FileMode) error{
	"Write": Write, "WriteDurable": WriteDurable,
	"Fill": func(path string, data []byte, mode os.FileMode) error {
		return Fill(path, mode, func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
	},
}

func TestReplaces(t *testing.T) {
	for name, write := range writers {
		path := filepath.Join(t.TempDir(), "file")
		for _, step := range []struct {
			text string
			mode os.FileMode
		}{{"first", 0o600}, {"", 0o755}, {"a longer one", 0o644}} {
			if err := write(path, []byte(step.text), step.mode); err != nil {
				t.Fatal(name, err)
			}
			got, err := os.ReadFile(path)
			info, err2 := os.Stat(path)
			if err != nil || err2 != nil || string(got) != step.text || info.Mode() != step.mode {
				t.Errorf("%s: %q %v %v %v, want %q %v", name, got, info.Mode(), err, err2, step.text, step.mode)
			}
		}
		wantOnly(t, filepath.Dir(path), "file")
	}
}

func TestFailureLeavesWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	path, full := filepath.Join(dir, "file"), filepath.Join(dir, "dir")
	if err := errors.Join(os.WriteFile(path, []byte("old"), 0o600), os.MkdirAll(filepath.Join(full, "x"), 0o755)); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := Fill(path, 0o600, func(w io.Writer) error {
		_, _ = w.Write([]byte("half"))
		return broken
	})
	if got, _ := os.ReadFile(path); !errors.Is(err, broken) || string(got) != "old" {
		t.Errorf("error %v, content %q", err, got)
	}
	for name, write := range writers {
		if err := write(full, nil, 0o600); err == nil {
			t.Errorf("%s replaced a directory", name)
		}
		if err := write(filepath.Join(dir, "none", "file"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s in a directory that is not there: %v", name, err)
		}
	}
	wantOnly(t, dir, "dir", "file")
}

// A reader never sees a part.
func TestReadersSeeTheWholeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	contents := [][]byte{bytes.Repeat([]byte("a"), 1<<16), bytes.Repeat([]byte("b"), 1<<17)}
	if err := Write(path, contents[0], 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		for i := range 200 {
			err = errors.Join(err, Write(path, contents[i%2], 0o600))
		}
		done <- err
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, contents[0]) && !bytes.Equal(got, contents[1]) {
			t.Fatalf("%d bytes, error %v", len(got), err)
		}
	}
}

func wantOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(names) {
		t.Fatalf("%v, error %v; want %v", entries, err, names)
	}
	for i, e := range entries {
		if e.Name() != names[i] {
			t.Errorf("%s is left", e.Name())
		}
	}
}
