package node

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// proxyLog: the log of the weft proxy that the agent starts, which is in memory, has a bound.
func proxyLog(t *testing.T, m *mesh) {
	path := filepath.Join(m.RunDir, "proxy.log")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := []byte(strings.Repeat("x", 1<<10-1) + "\n")
	if _, err := f.Write(bytes.Repeat(line, 5<<10)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() < 1<<20 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the log has %d bytes and is not cut", st.Size())
		}
	}
	old, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(old, []byte("Envoy")) || bytes.Count(old, line) < 5<<10 {
		t.Errorf("the log before it has %d bytes of %d, not all that was there", len(old), 5<<20)
	}
}
