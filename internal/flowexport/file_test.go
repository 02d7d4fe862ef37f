package flowexport

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/observe"
)

// TestFileIsRotated: each flow is in one of the files, in order, and there are not more or longer files than allowed.
func TestFileIsRotated(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "flows.json")
	for _, old := range []string{".3", ".4"} { // of a time when there were more
		if err := os.WriteFile(path+old, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const size = 4096
	x := NewFile(w.cfg, File{Path: path, Size: size, Count: 3})
	stop := w.run(x)
	w.add(0, 200)
	w.until("the last flow", func() bool {
		all := readFile(t, path)
		return len(all) > 0 && all[len(all)-1].number(t) == 199
	})
	stop()
	var all []entry
	for _, name := range []string{path + ".2", path + ".1", path} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > size || info.Mode() != 0o600 {
			t.Errorf("%s has %d bytes and mode %s", name, info.Size(), info.Mode())
		}
		all = append(all, readFile(t, name)...)
	}
	for i, e := range all {
		if want := 200 - len(all) + i; e.number(t) != want {
			t.Fatalf("entry %d is flow %d, want %d", i, e.number(t), want)
		}
	}
	if names, err := filepath.Glob(path + "*"); err != nil || len(names) != 3 {
		t.Errorf("files: %v (%v)", names, err)
	}
	if n := w.lost(x); n != 0 {
		t.Errorf("%d flows were lost", n)
	}
	// Another Exporter goes on in the same file.
	before := len(readFile(t, path))
	stop = w.run(NewFile(w.cfg, File{Path: path, Size: 1 << 20, Count: 3}))
	w.add(200, 1)
	w.until("a flow after a restart", func() bool { return len(readFile(t, path)) == before+1 })
	stop()
}

// TestOneFile: where there may be one file, it begins anew.
func TestOneFile(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "flows.json")
	w.run(NewFile(w.cfg, File{Path: path, Size: 2048, Count: 1}))
	w.add(0, 100)
	w.until("the last flow", func() bool {
		all := readFile(t, path)
		return len(all) > 0 && all[len(all)-1].number(t) == 99
	})
	if names, err := filepath.Glob(path + "*"); err != nil || len(names) != 1 {
		t.Errorf("files: %v (%v)", names, err)
	}
}

// TestFilter: only the flows that the filter takes are exported.
func TestFilter(t *testing.T) {
	w := newWorld(t)
	var err error
	if w.cfg.Filter, err = (observe.Terms{To: []string{"shop/7"}}).Filter(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "flows.json")
	stop := w.run(NewFile(w.cfg, File{Path: path, Size: 1 << 20, Count: 1}))
	w.add(0, 10)
	w.until("the flow", func() bool { return len(readFile(t, path)) == 1 })
	stop()
	if all := readFile(t, path); len(all) != 1 || all[0].number(t) != 7 {
		t.Errorf("%+v", all)
	}
}

// TestFileThatCannotBeWritten: the row says why, and what waited is written once it can be.
func TestFileThatCannotBeWritten(t *testing.T) {
	for name, block := range map[string]func(path string) error{
		"no folder": func(string) error { return nil },
		"a folder":  func(path string) error { return os.MkdirAll(path, 0o755) },
		"a pipe": func(path string) error {
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			return unix.Mkfifo(path, 0o600)
		},
		"a link": func(path string) error {
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			return os.Symlink("/dev/null", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			path := filepath.Join(t.TempDir(), "dir", "flows.json")
			if err := block(path); err != nil {
				t.Fatal(err)
			}
			x := NewFile(w.cfg, File{Path: path, Size: 1 << 20, Count: 2})
			stop := w.run(x)
			w.add(0, 3)
			w.until("an error", func() bool { return strings.Contains(w.row(x).Error, path) && !w.row(x).Since.IsZero() })
			if err := os.RemoveAll(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			w.until("the flows", func() bool { return len(readFile(t, path)) == 3 })
			w.until("the end of the error", func() bool { return w.row(x).Error == "" })
			stop()
			if n := w.lost(x); n != 0 {
				t.Errorf("%d flows were lost", n)
			}
		})
	}
}

// TestFullDisk: a line that has no room is not left in part, and comes when there is room.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "flows.json")
	x := NewFile(w.cfg, File{Path: path, Size: 1 << 20, Count: 2})
	s := x.sink.(*rotated)
	defer s.close()
	flow := numbered(1)
	if taken, _, err := s.send(t.Context(), []item{{0, &flow}}); taken != 1 || err != nil {
		t.Fatal(taken, err)
	}
	// A descriptor that cannot be written stands for a disk that is full: Linux gives no part of a disk to a test without root.
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	s.now.Close()
	s.now = readOnly
	if taken, lost, err := s.send(t.Context(), []item{{0, &flow}}); taken != 0 || lost != 0 || err == nil {
		t.Fatal(taken, lost, err)
	}
	if taken, _, err := s.send(t.Context(), []item{{2, &flow}}); taken != 1 || err != nil {
		t.Fatal(taken, err)
	}
	if all := readFile(t, path); len(all) != 2 || all[1].Lost != 2 {
		t.Errorf("%+v", all)
	}
}

// TestFileThatIsMoved: whoever moves the file away, as logrotate does, keeps it.
func TestFileThatIsMoved(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "flows.json")
	w.run(NewFile(w.cfg, File{Path: path, Size: 1 << 20, Count: 2}))
	w.add(0, 1)
	w.until("the first flow", func() bool { return len(readFile(t, path)) == 1 })
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	w.add(1, 1)
	w.until("the second flow", func() bool { all := readFile(t, path); return len(all) == 1 && all[0].number(t) == 1 })
}

// BenchmarkFile writes flows of requests in batches; an operation is a flow.
func BenchmarkFile(b *testing.B) {
	s := &rotated{File: File{Path: filepath.Join(b.TempDir(), "flows.json"), Size: 16 << 20, Count: 2}, node: "n1"}
	defer s.close()
	flow := numbered(1)
	flow.HTTP = &observe.Request{Method: "GET", Host: "web", Path: "/api/items", Status: 200}
	var batch []item
	for range maxBatch {
		batch = append(batch, item{0, &flow})
	}
	for n := 0; n < b.N; n += maxBatch {
		if _, _, err := s.send(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
}
