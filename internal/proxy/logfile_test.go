package proxy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLogFileIsBounded: a descriptor that Envoy was given goes on at the new end, nothing before is lost, and the file before
// it is replaced.
func TestLogFileIsBounded(t *testing.T) {
	const size = 1000
	path := filepath.Join(t.TempDir(), "proxy.log")
	if err := os.WriteFile(path, []byte("of an earlier weft proxy\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	ours, given := open(), open()
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > size+200 || bytes.ContainsRune(text, 0) {
			t.Fatalf("%s has %d bytes, and zeros: %t", name, len(text), bytes.ContainsRune(text, 0))
		}
		return string(text)
	}
	var all strings.Builder // what is in none of the files any more, and then all
	rotations := 0
	for i := range 100 {
		if _, err := fmt.Fprintf(given, "line %3d %s\n", i, strings.Repeat("x", 40)); err != nil {
			t.Fatal(err)
		}
		before := len(read(path))
		if err := rotateLog(ours, size); err != nil {
			t.Fatal(err)
		}
		if len(read(path)) < before {
			rotations++
			all.WriteString(read(path + ".1"))
		}
	}
	all.WriteString(read(path))
	if rotations < 4 {
		t.Errorf("%d rotations", rotations)
	}
	if text := all.String(); !strings.HasPrefix(text, "of an earlier weft proxy\nline   0 ") || strings.Count(text, "\n") != 101 || !strings.Contains(text, "line  99 ") {
		t.Errorf("lines are missing:\n%s", text)
	}
	if st, err := os.Stat(path + ".1"); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file before: %v, error %v", st.Mode(), err)
	}
}

// TestLogFileThatCannotBeCopied is emptied all the same.
func TestLogFileThatCannotBeCopied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.log")
	if err := os.Mkdir(path+".1", 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("more than is kept\n"); err != nil {
		t.Fatal(err)
	}
	if err := rotateLog(f, 4); err == nil {
		t.Error("no error")
	}
	if st, err := f.Stat(); err != nil || st.Size() != 0 {
		t.Errorf("%d bytes are left, error %v", st.Size(), err)
	}
}
